"""Addresses in run.json, and advertised addresses."""

import socket
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.transport.addresses import LOCAL_ADDRESS, advertised_address, check_listen_address, resolve_address


def test_a_local_address_is_in_the_directory_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_address(LOCAL_ADDRESS, Path("runs/one")) == f"ipc://{tmp_path}/runs/one/learner.sock"
    assert resolve_address("tcp://10.0.0.1:5", tmp_path) == "tcp://10.0.0.1:5"


def test_a_wildcard_is_advertised_as_the_name_of_the_host() -> None:
    for address in ("tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555"):
        assert advertised_address(address) == f"tcp://{socket.gethostname()}:5555"
    assert advertised_address("tcp://10.0.0.1:5555") == "tcp://10.0.0.1:5555"
    assert advertised_address("tcp://[fe80::1%eth0]:5555") == "tcp://[fe80::1%eth0]:5555"


@pytest.mark.parametrize(
    "address", ["", "tcp://a", "tcp://a:0", "tcp://a:65536", "tcp://a b:1", "udp://a:1", "tcp://::1:1"]
)
def test_an_address_to_listen_at_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        check_listen_address(address)
