"""The deadline of acting calls: a thread that ends the process when a call does not return."""

import math
import os
import threading
import time
from collections.abc import Callable, Hashable

from loguru import logger

from actor.guard.acting_record import ActingRecord
from shared.errors import ConfigurationError

CALL_DEADLINE_S = 10.0
"""The deadline in the processes that this project starts."""

EXCEEDED = 5
"""The exit code of a process whose acting call exceeded its deadline."""

_POLL_S = 0.5  # each wake-up contends for the GIL with the acting thread


def check_call_deadline(deadline_s: float) -> None:
    """Raise ConfigurationError unless ``deadline_s`` is a number of seconds, or 0."""
    if not 0 <= deadline_s < math.inf:
        raise ConfigurationError(f"expected 0 or more seconds as the deadline of a call, found {deadline_s:g}")


class CallTimer:
    """Measures the call in progress by looks from another thread, at least every ``longest_s`` seconds.

    A longer time between two looks means that the whole process did not run (it was stopped, or the machine was
    suspended): only ``longest_s`` of it count.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._looked_s: float | None = None
        self._call: Hashable = None
        self._call_s = 0.0
        self.returned_s = 0.0
        """The time since the look before, if a call has returned since then; else 0."""

    def look(self, now_s: float, call: Hashable, *, is_calling: bool) -> float:
        """Return the seconds for which the call in progress is known to last, 0 without one.

        Args:
            now_s: The monotonic time.
            call: A value that differs from call to call.
            is_calling: True while a call is in progress.
        """
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, self._longest_s)
        is_same, self._call, self._looked_s = call == self._call, call, now_s
        self.returned_s = 0.0 if is_same else passed_s
        self._call_s = self._call_s + passed_s if is_calling and is_same else 0.0
        return self._call_s


class CallDeadline:
    """Watches the calls of one agent, twice per second, and notes the length of one that hangs in the record.

    The thread cannot run while a program holds the GIL; TorchScript and ONNX Runtime release it, and
    programs compiled by LLVM have no loops.

    Args:
        record: The record of the agent.
        calls: Returns a value that differs from call to call.
        deadline_s: Seconds after which a call ends the process with ``EXCEEDED``. 0: never. A call that lasts a tenth
            of it counts as one that hangs, if its process is killed in it; with 0 it has to last ``CALL_DEADLINE_S``.
    """

    def __init__(self, record: ActingRecord, calls: Callable[[], Hashable], deadline_s: float) -> None:
        self._record = record
        self._calls = calls
        self._deadline_s = deadline_s
        self._hung_after_s = deadline_s / 10 or CALL_DEADLINE_S
        self._poll_s = min(_POLL_S, deadline_s / 4) if deadline_s else _POLL_S
        self._closing = threading.Event()
        self._digest = ""
        self.healthy_s = 0.0
        """Seconds in which the acting content has returned from calls."""
        self._thread = threading.Thread(target=self._watch, name="call-deadline", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        timer = CallTimer(2 * self._poll_s)
        while not self._closing.wait(self._poll_s):
            call_s = timer.look(time.monotonic(), self._calls(), is_calling=self._record.calling[0] == 1)
            self._record.note_hung(call_s if call_s >= self._hung_after_s else 0.0)
            if 0 < self._deadline_s <= call_s:
                self._end(call_s)
            if (digest := self._record.content[1]) != self._digest:
                self._digest, self.healthy_s = digest, 0.0
            self.healthy_s += timer.returned_s

    def _end(self, call_s: float) -> None:
        version, digest, engine_name = self._record.content
        logger.error(
            "acting call exceeded its deadline, process ends version={} digest={} engine={} seconds={:.1f}",
            version,
            digest[:12],
            engine_name,
            call_s,
        )
        os._exit(EXCEEDED)
