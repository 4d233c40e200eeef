"""Addresses of learners: a socket in the directory of the run, or host and port for other machines.

The directory of a local socket is opened once and checked, and the socket is reached through the open descriptor: the
directory that was checked is the one that is used, and its path may be longer than the path of a socket.
"""

import os
import re
import socket
import stat
import sys
from pathlib import Path

from shared.errors import ConfigurationError

LOCAL_ADDRESS = "ipc://learner.sock"
"""Address of a learner without ``--listen`` in ``run.json``: relative to the directory of the run."""

_SCHEME = "ipc://"
_LONGEST_PATH = 103  # macOS; Linux has room for 107
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})")
_ANY_HOST = ("*", "0.0.0.0", "::")


def resolve_address(address: str, run: Path) -> str:
    """Return the ``address`` of a learner that ``run.json`` in the directory ``run`` names, for the ends to use."""
    name = address.removeprefix(_SCHEME)
    return address if name == address else f"{_SCHEME}{run.absolute() / name}"


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


def is_local(address: str) -> bool:
    """Return True for a socket of this machine, False for tcp, also to this machine."""
    return not address.startswith("tcp:")


class LocalSocket:
    """The open directory of the socket at ``ipc://DIRECTORY/NAME``, in which only its owner can place one.

    ``endpoint`` is the address for ZeroMQ. It is valid until ``close``, and for reconnections as well.
    """

    def __init__(self, address: str) -> None:
        """Open and check the directory. Raises ConfigurationError if other users could replace the socket."""
        path = Path(address.removeprefix(_SCHEME))
        if not address.startswith(_SCHEME) or not path.is_absolute() or not path.name:
            raise ConfigurationError(f"expected an address ipc:///DIRECTORY/NAME or tcp://HOST:PORT, found {address!r}")
        try:
            self._directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"cannot open the directory of the socket {path}: {error.strerror}") from error
        try:
            self.endpoint = _SCHEME + self._reach(path)
        except BaseException:
            self.close()
            raise

    def _reach(self, path: Path) -> str:
        status = os.fstat(self._directory)
        if status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"use one user for learner and actors, or --listen tcp://HOST:PORT: {path.parent} belongs to user "
                f"{status.st_uid}, who could take the place of the learner; expected user {os.geteuid()}"
            )
        if status.st_mode & _OTHERS_WRITE:
            raise ConfigurationError(
                f"run chmod go-w {path.parent}: other users can write there, and could take the place of the learner"
            )
        if sys.platform == "linux":
            return f"/proc/self/fd/{self._directory}/{path.name}"
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigurationError(
                f"choose a shorter --run-dir, or give the learner --listen tcp://127.0.0.1:PORT: the path {path} of "
                f"its socket has more than {_LONGEST_PATH} bytes"
            )
        return str(path)

    def is_served(self) -> bool:
        """Return True if a process accepts connections: ZeroMQ would take the socket from it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.endpoint.removeprefix(_SCHEME))
            except BlockingIOError:  # so many connections wait
                return True
            except OSError:
                return False
        return True

    def restrict(self) -> None:
        """Let the owner alone connect. ZeroMQ creates sockets with the permissions of the process."""
        Path(self.endpoint.removeprefix(_SCHEME)).chmod(0o600)

    def remove(self) -> None:
        """Remove the socket of a receiver that closes: ZeroMQ leaves it behind."""
        Path(self.endpoint.removeprefix(_SCHEME)).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the directory, after the ZeroMQ sockets that use it."""
        os.close(self._directory)
