"""Socket files of learners that receive on this machine only.

The directory of the socket is opened once and checked, and the socket is reached through the open descriptor: the
directory that was checked is the one that is used, and its path may be longer than the path of a socket.
"""

import os
import socket as sockets
import stat
import sys
from pathlib import Path

from shared.errors import ConfigurationError

_SCHEME = "ipc://"
_LONGEST_PATH = 103  # macOS; Linux has room for 107
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


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
        if os.fstat(self._directory).st_mode & _OTHERS_WRITE:
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
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
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
