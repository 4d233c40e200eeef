"""Addresses that stay on this machine, and advertised addresses."""

import socket

import pytest

from shared.errors import ConfigurationError
from shared.transport.addresses import advertised_address, check_listen_address, local_address, needs_keys

LOCAL = ["ipc://@x", *(f"tcp://{host}:5" for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]"))]
REMOTE_HOSTS = ["0.0.0.0", "*", "[::]", "10.0.0.1", "localhost.example", "127.0.0.1.example", "eth0"]


@pytest.mark.parametrize("address", [*LOCAL, *(f"tcp://{host}:5" for host in REMOTE_HOSTS), "tcp://"])
def test_only_local_addresses_need_no_keys(address: str) -> None:
    assert needs_keys(address) is (address not in LOCAL)


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


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "a:b", "a\0b", "x" * 200])
def test_local_addresses_have_plain_names(name: str) -> None:
    assert local_address("run-1").startswith("ipc://")
    with pytest.raises(ConfigurationError):
        local_address(name)
