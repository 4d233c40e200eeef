"""Child processes that end with their parent, even if the parent is killed.

On Linux the kernel kills the child when the thread that started it ends (``PR_SET_PDEATHSIG``), even inside native
code; so a supervisor starts its children on its main thread. On every platform the child holds the read end of a pipe
whose only write end belongs to the parent: end of file means that the parent ended, even by ``kill -9``.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import Self

_PARENT_VARIABLE = "RL_HOTSWAP_PARENT_PID"
_LIFELINE_VARIABLE = "RL_HOTSWAP_LIFELINE_FD"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None  # loaded here, not between fork and exec


class Lifeline:
    """The pipe of a parent. Start children with its ``environment`` and ``pass_fds`` (see ``subprocess.Popen``)."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()

    @property
    def environment(self) -> dict[str, str]:
        return {_PARENT_VARIABLE: str(os.getpid()), _LIFELINE_VARIABLE: str(self._read_fd)}

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self._read_fd,)

    def close(self) -> None:
        """Close the pipe: children that still run are killed by their guards."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def die_with_parent() -> None:
    """Kill this process (SIGKILL) when its parent ends, or has ended already. A child calls it first of all."""
    die_with(parent_pid())
    watch_lifeline()


def watch_lifeline() -> None:
    """Kill this process when its parent's ``Lifeline`` is closed, if it has one. Starts a thread."""
    lifeline = os.environ.get(_LIFELINE_VARIABLE)
    if lifeline is not None:
        threading.Thread(target=_watch, args=(int(lifeline),), name="lifeline", daemon=True).start()


def parent_pid() -> int:
    """Return the process that started this one; it may have ended since."""
    return int(os.environ.get(_PARENT_VARIABLE, os.getppid()))


def die_with(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` ends; on other platforms, check once that it runs."""
    if sys.platform == "linux":
        assert _LIBC is not None
        if _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(code)}")
    if os.getppid() != parent:
        _end()


def _watch(read_fd: int) -> None:
    try:
        while os.read(read_fd, 1):
            pass
    except OSError:  # closed or not inherited: the parent cannot be watched and is taken to have ended
        pass
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
