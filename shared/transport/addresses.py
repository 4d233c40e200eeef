"""Where a learner can be reached: on this machine by name, from others by host and port."""

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
    """An ipc address for ``name`` (letters, digits, ``-``, ``_`` and ``.``).

    On Linux it is abstract: no file is left behind, and the name is free again the moment its process ends. Elsewhere
    it is a socket file in the temporary directory. Raises ConfigurationError.
    """
    if sys.platform == "linux":
        path = f"@rl-hotswap-{name}"
    else:
        path = str(Path(tempfile.gettempdir()) / f"rl-hotswap-{name}.sock")
    if not name or set("/\\\0*@:") & set(name) or len(path.encode()) > _LONGEST_IPC_PATH:
        raise ConfigurationError(
            f"{name!r} cannot name an ipc address: expected a short plain name (the address has at most "
            f"{_LONGEST_IPC_PATH} bytes), found {path!r}"
        )
    return f"ipc://{path}"


def check_listen_address(address: str) -> None:
    """Raise ConfigurationError unless it is ``tcp://HOST:PORT``, the port given: actors must find it again."""
    found = _TCP.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise ConfigurationError(
            f"--listen is tcp://HOST:PORT, such as tcp://0.0.0.0:5555 for every interface; found {address!r}"
        )


def advertised_address(address: str) -> str:
    """What actors connect to where the learner listens at ``address``: every interface is called by this host's name.

    Raises ConfigurationError where ``address`` is none to listen at.
    """
    check_listen_address(address)
    host, port = _host_and_port(address)
    return f"tcp://{socket.gethostname()}:{port}" if host in _ANY_HOST else address


def needs_keys(address: str) -> bool:
    """Whether what travels there leaves this machine: then both ends must prove who they are, and encrypt."""
    if not address.startswith("tcp:"):
        return False
    host, _ = _host_and_port(address)
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or an interface: nobody knows where it leads
        return True


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), port
