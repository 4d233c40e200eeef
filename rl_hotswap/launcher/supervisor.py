"""Keeps one learner and its actors running: starts them, restarts what dies, and ends all of them in time.

It computes nothing and imports no torch, so it starts at once and has little that can fail. Its children end with it
however it is killed (shared/process/process_guard.py).
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
from shared.errors import ConfigurationError
from shared.process.command_line import CANNOT
from shared.process.log import forward_warnings
from shared.process.process_guard import Lifeline
from shared.run.progress import Progress
from shared.run.run_directory import RunDirectory

GAVE_UP = 3

_TICK_S = 0.1
_FINISHED = (0, 1)  # exit codes of a training that came to its own end
_LEARNER_DEATHS_IN_A_ROW = 5
_ACTOR_MISTAKES_IN_A_ROW = 3
_IMPATIENT = 2  # signals, after which nothing is waited for
_HEALTHY_AFTER_S = 30.0
_LOOK_AGAIN_S = 5.0
# Of the 3 s in which everything is gone: the learner's checkpoint and the actors' last accounts, then the actors alone.
_LEARNER_GRACE_S = 2.1
_ACTOR_GRACE_S = 0.4
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WARNING = re.compile(r"(WARNING|ERROR|CRITICAL) \| ")
_COMMAND_NAME = re.compile(r"^python -m [\w.]+: ")


def count_deaths_in_a_row(before: int, lived_s: float, *, got_further: bool) -> int:
    """How many deaths in a row one more makes, after ``before``: 1 for who lived well, or got further than ever."""
    return 1 if got_further or lived_s >= _HEALTHY_AFTER_S else before + 1


def restart_delay_s(deaths_in_a_row: int) -> float:
    """Half a second after the first death, twice as long after each further one, ten seconds at most."""
    return min(10.0, 0.5 * 2.0 ** min(deaths_in_a_row - 1, 10))


@dataclass
class Slot:
    """A place for one process, filled again when that dies. ``command`` is given the number of starts before."""

    name: str
    command: Callable[[int], list[str]]
    process: ChildProcess | None = None
    starts: int = 0
    deaths: int = 0
    deaths_in_a_row: int = 0
    start_at_s: float = 0.0


@dataclass
class Standing:
    """What there is to show: the learner's own report, and what only the supervisor knows."""

    progress: Progress | None = None
    actors: int = 0
    actors_alive: int = 0
    actor_deaths: int = 0
    learner_deaths: int = 0
    messages: list[str] = field(default_factory=list)


class Supervisor:
    """One learner, whose exit code is the training's, and its actors.

    ``learner_command`` and ``actor_command`` (given the actor's index first) are told how often that process was
    started before. ``show`` is called about ten times a second with what there is to show.
    """

    def __init__(
        self,
        run: RunDirectory,
        learner_command: Callable[[int], list[str]],
        actor_command: Callable[[int, int], list[str]],
        actors: int,
        show: Callable[[Standing], None],
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
        """Run until the training ends or a signal comes; return the exit code. Every child is gone on return.

        Raises ConfigurationError with a child's own words where it could not do what was asked.
        """
        with forward_warnings(self._tell_of_oneself):
            with self._selector, _stop_signals(self._selector, self._signals), Lifeline() as lifeline:
                try:
                    code = self._until_over(lifeline)
                finally:
                    self._end([self._learner, *self._actors], deadline_s=0.0)
            self._amend_summary()
        self._show(self._standing())
        return code

    def _until_over(self, lifeline: Lifeline) -> int:
        while True:
            self._fill(lifeline)
            self._wait(_TICK_S)
            self._show(self._standing())
            if self._signals:
                return self._stop(self._signals[0])
            code = self._learner_end()
            if code is not None:
                self._end(self._actors, time.monotonic() + _ACTOR_GRACE_S)
                return code
            self._replace_dead_actors()

    def _fill(self, lifeline: Lifeline) -> None:
        ending = self._learner.process is not None and self._is_ending()
        for slot in (self._learner,) if ending else (self._learner, *self._actors):
            if self._is_due(slot):
                command = slot.command(slot.starts)
                slot.starts += 1
                slot.process = ChildProcess(slot.name, command, lifeline)
                self._selector.register(slot.process.output, selectors.EVENT_READ, slot.process)
                logger.info("started {} (process {}): {}", slot.name, slot.process.pid, " ".join(command))

    def _is_due(self, slot: Slot) -> bool:
        if slot.process is not None or time.monotonic() < slot.start_at_s:
            return False
        if slot is not self._learner:
            return True
        try:  # what is there from now on is this learner's own
            self._run.forget_summary()
        except OSError as error:
            slot.start_at_s = time.monotonic() + _LOOK_AGAIN_S
            logger.warning("{} cannot be written to ({}); the learner waits until it can", self._run.path, error)
            return False
        self._progress_before = self._run.progress()
        return True

    def _is_ending(self) -> bool:
        """Whether the learner has sent its actors away, and will end by itself."""
        progress = self._run.progress()
        if progress is None or progress == self._progress_before:  # clocks jump: the time in it tells nothing
            return False
        return progress.phase in ("stopping", "ended")

    def _wait(self, timeout_s: float) -> None:
        """Until a child says something, a signal comes, or the time is over."""
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, ChildProcess):
                self._hear(key.data)
            else:
                os.read(key.fd, 64)

    def _hear(self, process: ChildProcess) -> bool:
        """Take down what ``process`` says now; False where it says nothing."""
        lines = process.read_lines()
        if lines is None:
            self._selector.unregister(process.output)
        for line in filter(None, lines or ()):
            logger.debug("{} said: {}", process.name, line)
            if _WARNING.match(line):
                self._messages.append(f"{process.name}: {line}")
        return bool(lines)

    def _standing(self) -> Standing:
        messages, self._messages = self._messages, []
        return Standing(
            progress=self._run.progress(),
            actors=len(self._actors),
            actors_alive=sum(slot.process is not None for slot in self._actors),
            actor_deaths=sum(slot.deaths for slot in self._actors),
            learner_deaths=self._learner.deaths,
            messages=messages,
        )

    def _learner_end(self) -> int | None:
        """The exit code where the training is over, None where it goes on (with a new learner, if this one died)."""
        ended = self._take_ended(self._learner)
        if ended is None:
            return None
        process, code = ended
        # An uncaught error ends Python with 1 too; only a training that came to its end has written a summary.
        if code in _FINISHED and self._run.summary() is not None:
            return code
        if code == CANNOT:
            raise ConfigurationError(_last_words(process))
        self._note_death(self._learner, process, code, got_further=self._learner_got_further())
        if self._learner.deaths_in_a_row >= _LEARNER_DEATHS_IN_A_ROW:
            logger.warning("the learner died {} times in a row; giving up", self._learner.deaths_in_a_row)
            return GAVE_UP
        return None

    def _replace_dead_actors(self) -> None:
        for slot in self._actors:
            ended = self._take_ended(slot)
            if ended is None:
                continue
            process, code = ended
            if code == 0:  # sent away by a learner that is about to end; if it is not, the actor comes back
                slot.start_at_s = time.monotonic() + restart_delay_s(1)
                continue
            self._note_death(slot, process, code)
            if code == CANNOT and slot.deaths_in_a_row >= _ACTOR_MISTAKES_IN_A_ROW:
                raise ConfigurationError(_last_words(process))

    def _learner_got_further(self) -> bool:
        """Whether there is another newest checkpoint than at the death before, or an update that none came to before.

        Who dies at the same update again and again got no further: that is a death loop.
        """
        progress, newest = self._run.progress(), self._run.newest_checkpoint()
        updates = 0 if progress is None else progress.updates
        got_further = updates > self._most_updates or newest != self._newest_checkpoint
        self._most_updates = max(updates, self._most_updates)
        self._newest_checkpoint = newest
        return got_further

    def _note_death(self, slot: Slot, process: ChildProcess, code: int, *, got_further: bool = False) -> None:
        lived_s = time.monotonic() - process.started_s
        slot.deaths += 1
        slot.deaths_in_a_row = count_deaths_in_a_row(slot.deaths_in_a_row, lived_s, got_further=got_further)
        delay_s = restart_delay_s(slot.deaths_in_a_row)
        slot.start_at_s = time.monotonic() + delay_s
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        logger.warning("{} {} ({}); it is started again in {:g} s", slot.name, how, _last_words(process), delay_s)

    def _take_ended(self, slot: Slot) -> tuple[ChildProcess, int] | None:
        """A process that has ended is taken out of its slot, with its exit code."""
        process = slot.process
        code = None if process is None else process.exit_code()
        if process is None or code is None:
            return None
        while process.output in self._selector.get_map() and self._hear(process):
            pass
        if process.output in self._selector.get_map():
            self._selector.unregister(process.output)
        process.close()
        slot.process = None
        return process, code

    def _stop(self, number: int) -> int:
        """Within 3 s: the learner writes its checkpoint and summary, and tells the actors; who is late is killed."""
        began_s = time.monotonic()
        logger.warning("{}: stopping", signal.Signals(number).name)
        self._show(self._standing())
        self._end([self._learner], began_s + _LEARNER_GRACE_S)
        self._end(self._actors, began_s + _LEARNER_GRACE_S + _ACTOR_GRACE_S)
        return 128 + number

    def _end(self, slots: list[Slot], deadline_s: float) -> None:
        """Ask them to stop, give them until ``deadline_s`` (less, at a second signal), then kill."""
        for slot in slots:
            if slot.process is not None and time.monotonic() < deadline_s:
                slot.process.terminate()
        while self._living(slots) and time.monotonic() < deadline_s and len(self._signals) < _IMPATIENT:
            self._wait(_TICK_S / 4)
        for slot in self._living(slots):
            if slot.process is not None:
                logger.warning("{} had not stopped in time and was killed", slot.name)
                slot.process.kill()
                self._take_ended(slot)

    def _living(self, slots: list[Slot]) -> list[Slot]:
        for slot in slots:
            self._take_ended(slot)
        return [slot for slot in slots if slot.process is not None]

    def _tell_of_oneself(self, line: str) -> None:
        self._messages.append(f"supervisor: {line}")

    def _amend_summary(self) -> None:
        """A learner sees an actor come back; one that died before it was first heard of, only its supervisor saw."""
        summary = self._run.summary()
        restarts = sum(max(0, slot.starts - 1) for slot in self._actors)
        if summary is not None and restarts > summary.actor_restarts:
            try:
                self._run.write_summary(msgspec.structs.replace(summary, actor_restarts=restarts))
            except OSError as error:
                logger.warning(
                    "summary.json keeps {} actor restarts, not {}: {}", summary.actor_restarts, restarts, error
                )


def _last_words(process: ChildProcess) -> str:
    """What a process said last, which is the message of its error, without the name of its command."""
    last = next((line for line in reversed(process.last_lines) if line.strip()), "it said nothing")
    return _COMMAND_NAME.sub("", last.strip())


@contextmanager
def _stop_signals(selector: selectors.BaseSelector, received: list[int]) -> Iterator[None]:
    """Stop signals are put into ``received`` as they come; each wakes ``selector`` at once."""
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
