"""A child process that runs a module of this package, without a terminal, and that ends with the actor."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from shared.process.process_guard import Lifeline


class SideProcess:
    """Runs ``python -m module argument …``. The module must call ``die_with_parent`` first.

    ``descriptors`` are open in the child under the same numbers. Raises OSError if the process cannot start.
    """

    def __init__(self, module: str, arguments: Sequence[str], descriptors: Sequence[int]) -> None:
        self._lifeline = Lifeline()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | self._lifeline.environment
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(*descriptors, *self._lifeline.pass_fds),
                env=environment,
            )
        except BaseException:
            self._lifeline.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kill the process and release its resources."""
        self.kill()
        self._process.wait()
        self._lifeline.close()

    def describe_end(self) -> tuple[str, signal.Signals | None]:
        """Wait for the end; return its description (``exit code 1``, or the signal's name) and the signal, if any."""
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}", None
        number = signal.Signals(-code)
        return number.name, number
