"""The supervisor of one training: it starts one learner and its actors, restarts them, and ends them in time.

It imports no torch, so it starts fast. Its children end with it, however it ends (``shared/process/process_guard.py``).
"""

import os
import re
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import msgspec
from loguru import logger

from rl_hotswap.launcher.child_process import ChildProcess
from rl_hotswap.launcher.restarts import FAILURES_TO_END, EnvironmentFailures, count_deaths_in_a_row, restart_delay_s
from shared.errors import ConfigurationError, EnvironmentFailed
from shared.process.command_line import CANNOT, ENVIRONMENT_FAILED
from shared.process.log import forward_warnings
from shared.process.process_guard import Lifeline
from shared.run.progress import Progress
from shared.run.run_directory import RunDirectory

GAVE_UP = 3

_TICK_S = 0.1
_FINISHED = (0, 1)  # exit codes of a training that reached a target or a limit
_LEARNER_DEATHS_IN_A_ROW = 5
_ACTOR_MISTAKES_IN_A_ROW = 3
_SIGNALS_TO_KILL = 2  # the second signal ends the grace periods
_DISK_RETRY_S = 5.0
# Everything ends within 3 s: first the learner writes its checkpoint and collects counts, then the actors end.
_LEARNER_GRACE_S = 2.1
_ACTOR_GRACE_S = 0.4
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WARNING = re.compile(r"(WARNING|ERROR|CRITICAL) \| ")
_COMMAND_NAME = re.compile(r"^python -m [\w.]+: ")


@dataclass
class Slot:
    """One process and its restarts. ``command`` takes the number of earlier starts."""

    name: str
    command: Callable[[int], list[str]]
    process: ChildProcess | None = None
    starts: int = 0
    deaths: int = 0
    deaths_in_a_row: int = 0
    start_at_s: float = 0.0
    failures: EnvironmentFailures = field(default_factory=EnvironmentFailures)


@dataclass
class TrainingStatus:
    """The learner's report and the supervisor's own counts, for the display."""

    progress: Progress | None = None
    actors: int = 0
    actors_alive: int = 0
    actor_deaths: int = 0
    learner_deaths: int = 0
    messages: list[str] = field(default_factory=list)


class Supervisor:
    """Runs one learner, whose exit code is the training's, and its actors.

    ``learner_command`` takes the number of earlier starts, ``actor_command`` an actor's index and that number; both
    return a command line. ``show`` receives the status about ten times a second.
    """

    def __init__(
        self,
        run: RunDirectory,
        learner_command: Callable[[int], list[str]],
        actor_command: Callable[[int, int], list[str]],
        actors: int,
        show: Callable[[TrainingStatus], None],
    ) -> None:
        self._run = run
        self._show = show
        self._learner = Slot("learner", learner_command)
        self._actors = [Slot(f"actor-{index}", partial(actor_command, index)) for index in range(actors)]
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._messages: list[str] = []
        self._progress_before: Progress | None = None
        self._most_updates = 0
        self._newest_checkpoint = run.newest_checkpoint()

    def supervise(self) -> int:
        """Run until the training ends or stops; return the exit code. No child is left.

        Raises ConfigurationError if a process cannot run, EnvironmentFailed if the environment prevents the training.
        """
        with forward_warnings(lambda line: self._messages.append(f"supervisor: {line}")):
            with self._selector, _stop_signals(self._selector, self._signals), Lifeline() as lifeline:
                try:
                    code = self._run_until_end(lifeline)
                except EnvironmentFailed:
                    self._stop_in_order()
                    raise
                finally:
                    self._end([self._learner, *self._actors], deadline_s=0.0)
            self._amend_summary()
        self._show(self._status())
        return code

    def _run_until_end(self, lifeline: Lifeline) -> int:
        while True:
            self._start_due(lifeline)
            self._wait(_TICK_S)
            self._show(self._status())
            if self._signals:
                return self._stop(self._signals[0])
            code = self._learner_end()
            if code is not None:
                self._end(self._actors, time.monotonic() + _ACTOR_GRACE_S)
                return code
            self._replace_dead_actors()

    def _start_due(self, lifeline: Lifeline) -> None:
        ending = self._learner.process is not None and self._is_ending()
        for slot in (self._learner,) if ending else (self._learner, *self._actors):
            if self._is_due(slot):
                command = slot.command(slot.starts)
                slot.starts += 1
                slot.process = ChildProcess(slot.name, command, lifeline)
                self._selector.register(slot.process.output, selectors.EVENT_READ, slot.process)
                logger.info("process started name={} pid={} command={}", slot.name, slot.process.pid, " ".join(command))

    def _is_due(self, slot: Slot) -> bool:
        if slot.process is not None or time.monotonic() < slot.start_at_s:
            return False
        if slot is not self._learner:
            return True
        try:  # from now on a summary is this learner's own
            self._run.forget_summary()
        except OSError as error:
            slot.start_at_s = time.monotonic() + _DISK_RETRY_S
            logger.warning(
                "learner start delayed: the run directory is not writable path={} error={}", self._run.path, error
            )
            return False
        self._progress_before = self._run.progress()
        return True

    def _is_ending(self) -> bool:
        progress = self._run.progress()
        if progress is None or progress == self._progress_before:  # clocks jump, so its time proves nothing
            return False
        return progress.phase in ("stopping", "ended")

    def _wait(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, ChildProcess):
                self._read_output(key.data)
            else:
                os.read(key.fd, 64)

    def _read_output(self, process: ChildProcess) -> bool:
        """Log the lines that ``process`` has printed, collect its warnings, and return whether there were any lines."""
        lines = process.read_lines()
        if lines is None:
            self._selector.unregister(process.output)
        for line in filter(None, lines or ()):
            logger.debug("process output name={} line={}", process.name, line)
            if _WARNING.match(line):
                self._messages.append(f"{process.name}: {line}")
        return bool(lines)

    def _status(self) -> TrainingStatus:
        messages, self._messages = self._messages, []
        return TrainingStatus(
            progress=self._run.progress(),
            actors=len(self._actors),
            actors_alive=sum(slot.process is not None for slot in self._actors),
            actor_deaths=sum(slot.deaths for slot in self._actors),
            learner_deaths=self._learner.deaths,
            messages=messages,
        )

    def _learner_end(self) -> int | None:
        """Return the exit code when the training is over, else None. Schedule a restart when the learner died."""
        if (ended := self._take_ended(self._learner)) is None:
            return None
        process, code = ended
        # An uncaught exception exits with 1 too; only a training that ended by its own rules has written a summary.
        if code in _FINISHED and self._run.summary() is not None:
            return code
        if code == CANNOT:
            raise ConfigurationError(_last_line(process))
        if code == ENVIRONMENT_FAILED and self._run.summary() is not None:  # its own decision, from what actors sent
            raise EnvironmentFailed(_last_line(process))
        self._note_death(self._learner, process, code, made_progress=self._learner_made_progress())
        if self._learner.deaths_in_a_row >= _LEARNER_DEATHS_IN_A_ROW:
            logger.warning("learner given up deaths_in_a_row={}", self._learner.deaths_in_a_row)
            return GAVE_UP
        return None

    def _replace_dead_actors(self) -> None:
        for slot in self._actors:
            if (ended := self._take_ended(slot)) is None:
                continue
            process, code = ended
            if code == 0:  # stopped by a learner that is about to end; otherwise the actor starts again
                slot.start_at_s = time.monotonic() + restart_delay_s(1)
                continue
            self._note_death(slot, process, code)
            if code == CANNOT and slot.deaths_in_a_row >= _ACTOR_MISTAKES_IN_A_ROW:
                raise ConfigurationError(_last_line(process))

    def _learner_made_progress(self) -> bool:
        """Return whether there is a new checkpoint, or a higher update count, since the last death."""
        progress, newest = self._run.progress(), self._run.newest_checkpoint()
        updates = 0 if progress is None else progress.updates
        made_progress = updates > self._most_updates or newest != self._newest_checkpoint
        self._most_updates = max(updates, self._most_updates)
        self._newest_checkpoint = newest
        return made_progress

    def _note_death(self, slot: Slot, process: ChildProcess, code: int, *, made_progress: bool = False) -> None:
        lived_s = time.monotonic() - process.started_s
        slot.deaths += 1
        slot.deaths_in_a_row = count_deaths_in_a_row(slot.deaths_in_a_row, lived_s, made_progress=made_progress)
        delay_s = restart_delay_s(slot.deaths_in_a_row)
        slot.start_at_s = time.monotonic() + delay_s
        how = f"signal={signal.Signals(-code).name}" if code < 0 else f"exit_code={code}"
        logger.warning(
            "process died name={} {} restart_in_s={:g} last_line={}", slot.name, how, delay_s, _last_line(process)
        )
        if code != ENVIRONMENT_FAILED:
            slot.failures = EnvironmentFailures()
            return
        slot.failures = slot.failures.after(_last_line(process), lived_s)
        if slot.failures.in_a_row >= FAILURES_TO_END:
            raise EnvironmentFailed(f"{slot.failures.sentence} ({FAILURES_TO_END} identical failures in a row)")

    def _take_ended(self, slot: Slot) -> tuple[ChildProcess, int] | None:
        """Remove a process that has ended from its slot and return it with its exit code; None while it runs."""
        process = slot.process
        code = None if process is None else process.exit_code()
        if process is None or code is None:
            return None
        while process.output in self._selector.get_map() and self._read_output(process):
            pass
        if process.output in self._selector.get_map():
            self._selector.unregister(process.output)
        process.close()
        slot.process = None
        return process, code

    def _stop(self, number: int) -> int:
        logger.warning("training stopping signal={}", signal.Signals(number).name)
        self._stop_in_order()
        return 128 + number

    def _stop_in_order(self) -> None:
        """Stop everything within 3 s: the learner writes a checkpoint and stops the actors. Kill late processes."""
        began_s = time.monotonic()
        self._show(self._status())
        self._end([self._learner], began_s + _LEARNER_GRACE_S)
        self._end(self._actors, began_s + _LEARNER_GRACE_S + _ACTOR_GRACE_S)

    def _end(self, slots: list[Slot], deadline_s: float) -> None:
        """Send SIGTERM, wait until ``deadline_s`` or a second signal, then kill."""
        for slot in slots:
            if slot.process is not None and time.monotonic() < deadline_s:
                slot.process.terminate()
        while self._living(slots) and time.monotonic() < deadline_s and len(self._signals) < _SIGNALS_TO_KILL:
            self._wait(_TICK_S / 4)
        for slot in self._living(slots):
            if slot.process is not None:
                logger.warning("process killed name={} reason=did_not_stop_in_time", slot.name)
                slot.process.kill()
                self._take_ended(slot)

    def _living(self, slots: list[Slot]) -> list[Slot]:
        for slot in slots:
            self._take_ended(slot)
        return [slot for slot in slots if slot.process is not None]

    def _amend_summary(self) -> None:
        """Raise the summary's restart count to the supervisor's: the learner misses actors that never connected."""
        summary = self._run.summary()
        restarts = sum(max(0, slot.starts - 1) for slot in self._actors)
        if summary is not None and restarts > summary.actor_restarts:
            try:
                self._run.write_summary(msgspec.structs.replace(summary, actor_restarts=restarts))
            except OSError as error:
                logger.warning(
                    "summary not amended actor_restarts={} counted={} error={}", summary.actor_restarts, restarts, error
                )


def _last_line(process: ChildProcess) -> str:
    """Return the last line that a process printed, usually its error, without the name of its command."""
    last = next((line for line in reversed(process.last_lines) if line.strip()), "no output")
    return _COMMAND_NAME.sub("", last.strip())


@contextmanager
def _stop_signals(selector: selectors.BaseSelector, received: list[int]) -> Iterator[None]:
    """Collect stop signals in ``received`` while the context is open; each wakes ``selector``."""
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    selector.register(reader, selectors.EVENT_READ)
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in _STOP_SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        selector.unregister(reader)
        for end in (reader, writer):
            os.close(end)
