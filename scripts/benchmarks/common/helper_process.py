"""A process beside the benchmark, without its imports. It ends when its owner closes it or dies, and not by Ctrl-C."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from actor.session.process_state import short_switch_interval
from rl_hotswap.launcher.child_process import child_environment, python_module
from shared.errors import HotswapError
from shared.process.log import set_up_logging
from shared.process.process_guard import Lifeline, die_with_parent

ANSWER_TIMEOUT_S = 120.0


class HelperProcess(AbstractContextManager["HelperProcess"]):
    """Runs ``run(connection, *arguments)``, which are pickled, in its own process; leaving the context kills it."""

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        self._name = f"{run.__module__}.{run.__qualname__}"
        self._lifeline = Lifeline()
        self.connection, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            python_module("scripts.benchmarks.common.helper_process", [str(theirs.fileno())]),
            stdin=subprocess.DEVNULL,
            env=child_environment() | self._lifeline.environment,
            pass_fds=(theirs.fileno(), *self._lifeline.pass_fds),
            start_new_session=True,
        )
        theirs.close()
        self.connection.send((run, arguments))

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Return the next object that the process sent. Raise HotswapError if it ended or after ``timeout_s``."""
        if not self.connection.poll(timeout_s):
            raise HotswapError(f"{self._name} sent nothing for {timeout_s:g} s")
        try:
            return self.connection.recv()
        except EOFError as error:
            raise HotswapError(f"{self._name} ended; its own output is above") from error

    def send(self, method: str, *arguments: Any) -> None:
        """Call ``method`` of the served object (see ``serve``); ``receive`` returns the result."""
        self.connection.send((method, arguments))

    def call(self, method: str, *arguments: Any) -> Any:
        self.send(method, *arguments)
        return self.receive()

    def cpu_s(self) -> float:
        """Return the CPU time of the process so far in seconds, without waking it."""
        if sys.platform != "linux":
            times = psutil.Process(self._process.pid).cpu_times()  # a resolution of 10 ms on many systems
            return float(times.user + times.system)
        clock = ctypes.c_int()
        if (code := ctypes.CDLL(None).clock_getcpuclockid(self._process.pid, ctypes.byref(clock))) != 0:
            raise HotswapError(f"{self._name}: CPU clock not available: {os.strerror(code)}")
        return time.clock_gettime(clock.value)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._lifeline.close()


def serve(connection: Connection, served: object) -> None:
    """Answer ``HelperProcess.call`` until the owner closes the connection."""
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(served, method)(*arguments))


def serve_actor(connection: Connection, logs: Path, make: Callable[..., object], *arguments: Any) -> None:
    """Serve ``make(*arguments)`` in a process that acts: it logs into a file and has a short switch interval."""
    set_up_logging(f"actor-{os.getpid()}", logs, terminal_level="ERROR")
    with short_switch_interval():
        serve(connection, make(*arguments))


if __name__ == "__main__":
    die_with_parent()
    to_owner = Connection(int(sys.argv[1]))
    program, program_arguments = to_owner.recv()
    program(to_owner, *program_arguments)
