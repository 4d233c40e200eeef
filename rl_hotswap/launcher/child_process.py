"""One child process: in a session of its own, ending with its parent, its terminal output captured."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from shared.process.process_guard import Lifeline, die_with

CHECKOUT = Path(__file__).resolve().parents[2]

_READ_BYTES = 65536
_LINES_KEPT = 20
# Each process computes on one thread: there are as many processes as cores, and small matrices gain nothing from more.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def python_module(name: str, flags: Sequence[str]) -> list[str]:
    """The command that runs module ``name`` with this interpreter; -P keeps folders here from shadowing packages."""
    return [sys.executable, "-P", "-m", name, *flags]


def child_environment() -> dict[str, str]:
    """This process's environment, one thread for arithmetic where nobody chose, and this checkout's packages first.

    The current directory comes last on the path: environments of one's own are found there.
    """
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", ""), str(Path.cwd())]
    defaults = dict.fromkeys(_ONE_THREAD, "1")
    return defaults | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


class ChildProcess:
    """Started by the constructor, which must run on the main thread: the kernel ends a child with the thread it is of.

    A session of its own keeps Ctrl-C from it: whoever started it decides how it ends.
    """

    def __init__(self, name: str, command: Sequence[str], lifeline: Lifeline) -> None:
        self.name = name
        self.started_s = time.monotonic()
        self.last_lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._unfinished = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment() | lifeline.environment,
            pass_fds=lifeline.pass_fds,
            start_new_session=True,
            # It calls die_with_parent itself, but may be stopped before it comes to that.
            preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - no thread here holds what the child needs
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> int:
        """A file descriptor that is readable when there is output, or the end of it."""
        return self._output

    def read_lines(self) -> list[str] | None:
        """The whole lines that have come since the last call, without waiting; None once there will be no more."""
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        *whole, self._unfinished = (self._unfinished + data).split(b"\n")
        lines = [line.decode(errors="replace").rstrip() for line in whole]
        self.last_lines.extend(lines)
        return lines

    def exit_code(self) -> int | None:
        """None while it lives; negative for a signal. What it left running in its session is killed with it."""
        if self._process.returncode is None and self._has_ended():
            self._signal_group(signal.SIGKILL)  # before it is reaped: until then nobody else can have its number
            self._process.wait()
        return self._process.returncode

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def terminate(self) -> None:
        """Ask it to stop. Nothing happens where it has ended."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and everything in its session, and wait for that: not even a stopped process can refuse."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Let go of its output."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # between fork and setsid there is no such group yet
            self._process.send_signal(number)
