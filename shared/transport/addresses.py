"""Addresses of learners: a socket in the directory of the run, or host and port for other machines."""

import re
import socket
from pathlib import Path

from shared.errors import ConfigurationError

LOCAL_ADDRESS = "ipc://learner.sock"
"""Address of a learner without ``--listen`` in ``run.json``: relative to the directory of the run."""

_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})")
_ANY_HOST = ("*", "0.0.0.0", "::")


def resolve_address(address: str, run: Path) -> str:
    """Return the ``address`` of a learner that ``run.json`` in the directory ``run`` names, for the ends to use."""
    name = address.removeprefix("ipc://")
    return address if name == address else f"ipc://{run.absolute() / name}"


def check_listen_address(address: str) -> None:
    """Raise ConfigurationError unless ``address`` is ``tcp://HOST:PORT``. The port is fixed for restarts."""
    found = _TCP.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise ConfigurationError(
            f"use --listen tcp://HOST:PORT, such as tcp://0.0.0.0:5555 for every interface; found {address!r}"
        )


def advertised_address(address: str) -> str:
    """Return the address that actors connect to: that to listen at, with the name of this host for a wildcard."""
    check_listen_address(address)
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"tcp://{socket.gethostname()}:{port}" if host.strip("[]") in _ANY_HOST else address
