"""A process beside the benchmark: an actor or a publisher as they are in earnest, without what the benchmark imports.

It ends when its owner closes it, or dies in whatever way, and it never sees the terminal's Ctrl-C.
"""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

from rl_hotswap.launcher.child_process import child_environment, python_module
from shared.errors import HotswapError
from shared.process.process_guard import Lifeline, die_with_parent

ANSWER_TIMEOUT_S = 120.0


class HelperProcess:
    """Runs ``run(connection, *arguments)`` in a process of its own, until it returns or ``close`` kills it.

    ``run`` and ``arguments`` travel by pickle: a function of a module, and plain values.
    """

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        self._name = f"{run.__module__}.{run.__qualname__}"
        self._lifeline = Lifeline()
        self.connection, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            python_module("scripts.benchmarks.helper_process", [str(theirs.fileno())]),
            stdin=subprocess.DEVNULL,
            env=child_environment() | self._lifeline.environment,
            pass_fds=(theirs.fileno(), *self._lifeline.pass_fds),
            start_new_session=True,
        )
        theirs.close()
        self.connection.send((run, arguments))

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """The next thing that it sent. Raises HotswapError where it ended, or said nothing for ``timeout_s``."""
        if not self.connection.poll(timeout_s):
            raise HotswapError(f"{self._name} has said nothing for {timeout_s:g} s")
        try:
            return self.connection.recv()
        except EOFError as error:
            raise HotswapError(f"{self._name} has ended; what it said stands above") from error

    def ask(self, method: str, *arguments: Any) -> None:
        """Have it call ``method`` of the object that it serves (see ``serve``); ``receive`` gives what that returns."""
        self.connection.send((method, arguments))

    def call(self, method: str, *arguments: Any) -> Any:
        """Ask, and wait for the answer."""
        self.ask(method, *arguments)
        return self.receive()

    def cpu_s(self) -> float:
        """The CPU time that it has taken so far, in seconds; it does nothing to tell."""
        if sys.platform != "linux":
            times = psutil.Process(self._process.pid).cpu_times()  # in ticks of a hundredth, on many systems
            return float(times.user + times.system)
        clock = ctypes.c_int()
        if (fault := ctypes.CDLL(None).clock_getcpuclockid(self._process.pid, ctypes.byref(clock))) != 0:
            raise HotswapError(f"{self._name}: no clock of its CPU time: {os.strerror(fault)}")
        return time.clock_gettime(clock.value)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._lifeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(connection: Connection, served: object) -> None:
    """Answer ``HelperProcess.call`` until the owner is gone."""
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(served, method)(*arguments))


def main() -> None:
    die_with_parent()
    connection = Connection(int(sys.argv[1]))
    run, arguments = connection.recv()
    run(connection, *arguments)


if __name__ == "__main__":
    main()
