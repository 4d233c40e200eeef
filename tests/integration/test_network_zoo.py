"""Networks of reinforcement learning export, and every engine that runs them agrees with eager."""

from typing import Any

import pytest

from scripts.conformance.network_zoo import NETWORKS, is_missing, measure
from scripts.conformance.zoo.network import Network

QUICK = {"C51", "SAC", "RSSM", "sparse mixture of experts", "IQN"}  # scripted at once


def check(network: Network, **options: Any) -> None:
    if is_missing(network):
        pytest.skip(f"needs {network.needs}")
    result = measure(network, **options)
    assert bool(result.methods) is not bool(network.refused), result.reason
    assert network.refused in result.reason
    assert not result.disagreeing
    for found in result.engines:
        assert not found.reason or found.reason.startswith("ProgramUnsupported"), found
        assert found.reason or found.wide_rows, "no wide row was compared"


def test_the_zoo_has_at_least_49_kinds_of_which_few_are_refused() -> None:
    names = [network.name for network in NETWORKS]
    assert len(set(names)) == len(names) >= 49
    assert {network.name for network in NETWORKS if network.refused} == {"dynamic int8"}


@pytest.mark.filterwarnings("ignore")
def test_five_networks_export_and_agree_on_torchscript() -> None:
    networks = [network for network in NETWORKS if network.name in QUICK]
    assert len(networks) == 5
    for network in networks:
        check(network, batch_sizes=(1, 7), programs=("torchscript",))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_network_exports_and_every_engine_agrees(network: Network) -> None:
    check(network)
