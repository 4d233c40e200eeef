"""One child process in its own session, with captured output, that ends with its parent."""

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

# Directory of these packages: a checkout, or site-packages.
CHECKOUT = Path(__file__).resolve().parents[2]

_READ_BYTES = 65536
_LINES_KEPT = 20
# Each process computes on one thread: there are as many processes as cores, and small matrices gain nothing from more.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def python_module(name: str, flags: Sequence[str]) -> list[str]:
    """Return the command that runs module ``name``; with -P no folder in the working directory shadows a package."""
    return [sys.executable, "-P", "-m", name, *flags]


def child_environment() -> dict[str, str]:
    """Return the environment with one arithmetic thread by default, these packages first on the path, the cwd last."""
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", ""), str(Path.cwd())]
    defaults = dict.fromkeys(_ONE_THREAD, "1")
    return defaults | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


class ChildProcess:
    """A process that the constructor starts. Its own session keeps Ctrl-C of the terminal from it.

    Construct it on the main thread: the kernel kills the child when the thread that started it ends.
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
            # The child calls die_with_parent too, but it may be stopped before that.
            preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - the child only calls prctl
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        self.pid = self._process.pid
        self.output = self._stdout.fileno()
        """File descriptor that is readable when there is output or its end."""
        os.set_blocking(self.output, False)

    def read_lines(self) -> list[str] | None:
        """Return the complete lines since the last call without waiting; None after the end of the output."""
        try:
            data = os.read(self.output, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        *whole, self._unfinished = (self._unfinished + data).split(b"\n")
        lines = [line.decode(errors="replace").rstrip() for line in whole]
        self.last_lines.extend(lines)
        return lines

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs. Then kill the rest of its session."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if self._process.returncode is None and os.waitid(os.P_PID, self.pid, flags) is not None:
            self._signal_group(signal.SIGKILL)  # before it is reaped: until then its process group cannot be reused
            self._process.wait()
        return self._process.returncode

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it with its session and wait for its end. A stopped process is killed too."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        self._stdout.close()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # between fork and setsid there is no such group yet
            self._process.send_signal(number)
