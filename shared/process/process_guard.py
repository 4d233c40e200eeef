"""No orphans: a child process that ends when its parent ends, in whatever way the parent was killed.

Two mechanisms, since neither is enough alone. On Linux the kernel kills the child when the thread that started it is
gone (``PR_SET_PDEATHSIG``), even while the child is inside native code; so a supervisor starts its children on its main
thread. Everywhere, the child holds the reading end of a pipe whose only writing end is the parent's: end of file means
that the parent is gone. Neither needs anything from the dying parent, so ``kill -9`` is covered.
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
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None  # now, and not between fork and exec


class Lifeline:
    """The parent's end. Give every child ``environment`` and ``pass_fds`` when starting it (``subprocess.Popen``)."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which ``die_with_parent`` finds its parent."""
        return {_PARENT_VARIABLE: str(os.getpid()), _LIFELINE_VARIABLE: str(self._read_fd)}

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self._read_fd,)

    def close(self) -> None:
        """Let go: children that still live are killed by their own guards."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def die_with_parent() -> None:
    """Called by a child as the first thing it does: from now on it is killed (SIGKILL) once its parent is gone.

    It notices too when the parent had gone before this call. Without a ``Lifeline``'s environment it guards against
    the end of whoever is its parent now.
    """
    die_with(int(os.environ.get(_PARENT_VARIABLE, os.getppid())))
    lifeline = os.environ.get(_LIFELINE_VARIABLE)
    if lifeline is not None:
        threading.Thread(target=_watch, args=(int(lifeline),), name="lifeline", daemon=True).start()


def die_with(parent: int) -> None:
    """The kernel's half of the guard, for a child that process ``parent`` started otherwise than with a ``Lifeline``.

    Called by the child, or for it between fork and exec: so that it is guarded before it runs any code, though it be
    stopped before it does. Does nothing but look, once, where the kernel is not Linux.
    """
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
    except OSError:  # closed or never passed on: the parent cannot be watched through it, and must be taken as gone
        pass
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
