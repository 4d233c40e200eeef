"""Addresses that stay on this machine, and advertised addresses."""

import socket

import pytest

from shared.errors import ConfigurationError
from shared.transport.addresses import advertised_address, check_listen_address, needs_keys


@pytest.mark.parametrize(
    ("address", "needed"),
    [
        ("ipc://@x", False),
        ("tcp://127.0.0.1:5", False),
        ("tcp://127.8.8.8:5", False),
        ("tcp://localhost:5", False),
        ("tcp://[::1]:5", False),
        ("tcp://0.0.0.0:5", True),
        ("tcp://*:5", True),
        ("tcp://[::]:5", True),
        ("tcp://10.0.0.1:5", True),
        ("tcp://localhost.example:5", True),
        ("tcp://127.0.0.1.example:5", True),
        ("tcp://eth0:5", True),
        ("tcp://", True),
    ],
)
def test_only_local_addresses_need_no_keys(address: str, needed: bool) -> None:
    assert needs_keys(address) is needed


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
