"""Purity of programs, on the engines that run them."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.eager import EagerEngine, module_tensors
from shared.engines.engine import Engine
from shared.engines.torchscript import TorchScriptEngine
from shared.errors import ProgramImpure
from shared.policy.probe import compute_probe
from shared.scripting.scripting import save_archive, script
from tests.support.agent_policies import exporter
from tests.support.impure_policies import REASONS, AroundPolicy
from tests.support.policies import make_version

ENGINES: dict[str, Callable[[nn.Module], Engine]] = {
    "torchscript": lambda module: TorchScriptEngine.from_bytes(save_archive(script(module.eval()))),
    "eager": lambda module: EagerEngine(module, ""),
}


def _weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in module_tensors(module).items()}


def _verifier(module: AroundPolicy, batch_size: int) -> ProbeVerifier:
    manifest = make_version(exporter(network=module.network), module.policy.state_dict()).manifest
    return ProbeVerifier(manifest, compute_probe(module, module.signature), batch_size)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", REASONS)
def test_a_program_that_reproduces_its_own_probe_is_refused_if_impure(kind: type[AroundPolicy], engine: str) -> None:
    """The batch is the probe's, so that the probe alone shows little."""
    with pytest.raises(ProgramImpure, match=REASONS[kind]):
        _verifier(kind().eval(), 8).verify_purity(ENGINES[engine](kind()), _weights(kind()))
