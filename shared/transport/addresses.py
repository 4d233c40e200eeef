"""Addresses of learners: a name on this machine, host and port for other machines."""

import ipaddress
import re
import socket
import sys
import tempfile
from pathlib import Path

from shared.errors import ConfigurationError

_LONGEST_IPC_PATH = 103  # macOS; Linux has room for 107
_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})")
_ANY_HOST = ("*", "0.0.0.0", "::")


def local_address(name: str) -> str:
    """Return an ipc address for ``name`` (letters, digits, ``-``, ``_`` and ``.``). Raises ConfigurationError.

    On Linux it is abstract and free when its process ends; elsewhere it is a socket file in the temporary directory.
    """
    if sys.platform == "linux":
        path = f"@rl-hotswap-{name}"
    else:
        path = str(Path(tempfile.gettempdir()) / f"rl-hotswap-{name}.sock")
    if not name or set("/\\\0*@:") & set(name) or len(path.encode()) > _LONGEST_IPC_PATH:
        raise ConfigurationError(
            f"use a short plain name: {name!r} gives the ipc address {path!r}; expected at most {_LONGEST_IPC_PATH} "
            "bytes without special characters"
        )
    return f"ipc://{path}"


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
    host, port = _host_and_port(address)
    return f"tcp://{socket.gethostname()}:{port}" if host in _ANY_HOST else address


def needs_keys(address: str) -> bool:
    """Return True if traffic to ``address`` may leave this machine, so that both ends need keys."""
    if not address.startswith("tcp:"):
        return False
    host, _ = _host_and_port(address)
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name or an interface, which may lead anywhere
        return True


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), port
