"""The canary evaluations of a store, shared by its actors: a numbered log of small notes in that store.

    trial-000000007                   the candidate and its baseline; the first note counts
    returns-000000007-9f86d081884c7d  the returns that one actor saw of both; that actor replaces it
    verdict-000000007                 the result; the first note counts

There is one evaluation at a time with one verdict, whichever actor ends. Evaluation 0 has no baseline: its version is
adopted. Notes are not signed: they only decide which of the published versions act, and how soon.
"""

import hashlib
import math
import re
import time
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from shared.errors import StoreError
from shared.store.store_notes import StoreNotes

ABANDONED_AFTER_S = 60.0
"""An evaluation without a new note for so long may be given up for the next."""
BEAT_S = 10.0
"""The interval at which an actor renews its returns."""
MOST_RETURNS = 200
"""The most returns of each version that one actor reports."""

_ACTORS_READ = 1000
_NUMBERED = re.compile(r"(trial|returns|verdict)-(\d{9})(?:-[0-9a-f]{14})?")

_Number = Annotated[int, msgspec.Meta(ge=0)]
_Text = Annotated[str, msgspec.Meta(max_length=2000)]
_Floats = Annotated[tuple[float, ...], msgspec.Meta(max_length=MOST_RETURNS)]


class Version(msgspec.Struct, frozen=True):
    """A version by its number and its content."""

    version: _Number
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Evaluation(msgspec.Struct, frozen=True):
    """A candidate that is compared with ``baseline``; without one it is adopted."""

    candidate: Version
    baseline: Version | None
    by: _Text


class Returns(msgspec.Struct, frozen=True):
    """The returns that one actor saw since the evaluation began. ``beat`` grows while it takes part."""

    candidate: _Floats = ()
    baseline: _Floats = ()
    beat: int = 0


class CanaryVerdict(msgspec.Struct, frozen=True):
    """The result of an evaluation."""

    is_worse: bool
    reason: _Text
    by: _Text


_Note = TypeVar("_Note", Evaluation, Returns, CanaryVerdict)


class CanaryLedger:
    """The newest evaluation at the last ``look``. Never raises for a store that fails.

    A note that could not be written counts for this actor alone, until the store has another one in its place. So
    without ``notes``, or if no actor can write, each actor decides with its own episodes. ``fault`` is the error then.
    """

    def __init__(self, notes: StoreNotes | None, name: str) -> None:
        self.number = -1
        self.evaluation: Evaluation | None = None
        self.verdict: CanaryVerdict | None = None
        self.returns: Mapping[str, Returns] = {}  # of the other actors, by the names of their notes
        self.fault: str | None = None
        self._notes = notes
        self._name = name[:200]
        self._author = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:14]
        self._own: dict[str, bytes] = {}
        self._next = 0
        self._changed_at_s = time.monotonic()

    @property
    def is_open(self) -> bool:
        """True while a candidate is compared with a baseline and there is no verdict."""
        return self.evaluation is not None and self.evaluation.baseline is not None and self.verdict is None

    @property
    def is_abandoned(self) -> bool:
        """True when no actor seems to take part any more."""
        return time.monotonic() - self._changed_at_s >= ABANDONED_AFTER_S

    @property
    def champion(self) -> Version | None:
        """The version that was adopted last; None before the first."""
        if self.evaluation is None or self.evaluation.baseline is None:
            return None if self.evaluation is None else self.evaluation.candidate
        adopted = self.verdict is not None and not self.verdict.is_worse
        return self.evaluation.candidate if adopted else self.evaluation.baseline

    def look(self) -> None:
        """Read the notes; if the store does not answer, the previous state stays."""
        try:
            names = self._names()
            numbers = sorted((number for kind, number in names.values() if kind == "trial"), reverse=True)
            found = ((number, self._read(f"trial-{number:09d}", Evaluation)) for number in numbers)
            number, evaluation = next((each for each in found if each[1] is not None), (-1, None))
            verdict = self._read(f"verdict-{number:09d}", CanaryVerdict) if evaluation is not None else None
            reports = [name for name, of in names.items() if of == ("returns", number)][:_ACTORS_READ]
            read = {name: self._read(name, Returns) for name in reports if name != self._returns_name(number)}
        except StoreError as error:
            self.fault = str(error)
            return
        returns = {name: each for name, each in read.items() if each is not None and _are_finite(each)}
        if (number, returns) != (self.number, self.returns):
            self._changed_at_s = time.monotonic()
        self._next = max((number for _, number in names.values()), default=-1) + 1
        self.number, self.evaluation, self.verdict, self.returns = number, evaluation, verdict, returns

    def open(self, candidate: Version, baseline: Version | None) -> bool:
        """Open the next evaluation. Return False if another actor has opened one, which is then the newest."""
        number = self._next
        is_first = self._create(f"trial-{number:09d}", Evaluation(candidate, baseline, self._name))
        self.look()
        if is_first:
            self._remove_before(number - 1)
        return is_first and self.number == number

    def report(self, returns: Returns) -> None:
        """Share the returns that this actor saw in the open evaluation."""
        name = self._returns_name(self.number)
        data = msgspec.json.encode(returns)
        try:
            if self._notes is not None:
                self._notes.write(name, data)
                self.fault = None
        except StoreError as error:
            self.fault = str(error)

    def decide(self, *, is_worse: bool, reason: str) -> CanaryVerdict:
        """Decide the open evaluation. Return the verdict that counts: the first."""
        name = f"verdict-{self.number:09d}"
        ours = CanaryVerdict(is_worse, reason[:2000], self._name)
        if not self._create(name, ours):
            self._own.setdefault(name, msgspec.json.encode(ours))  # if the note there cannot be read
        try:
            self.verdict = self._read(name, CanaryVerdict) or ours
        except StoreError as error:
            self.fault = str(error)
            self.verdict = ours
        return self.verdict

    def _returns_name(self, number: int) -> str:
        return f"returns-{number:09d}-{self._author}"

    def _names(self) -> dict[str, tuple[str, int]]:
        names = set(self._own).union(self._notes.names() if self._notes is not None else ())
        found = {name: match for name in sorted(names) if (match := _NUMBERED.fullmatch(name))}
        return {name: (match[1], int(match[2])) for name, match in found.items()}

    def _read(self, name: str, kind: type[_Note]) -> _Note | None:
        """Return the note in the store, or else this actor's own; garbage is no note. Raises StoreError."""
        theirs = self._notes.read(name) if self._notes is not None else None
        for data in (theirs, self._own.get(name)):
            try:
                if data is not None:
                    return msgspec.json.decode(data, type=kind)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
        return None

    def _create(self, name: str, note: Evaluation | CanaryVerdict) -> bool:
        data = msgspec.json.encode(note)
        try:
            if self._notes is not None:
                is_first = self._notes.create(name, data)
                self.fault = None
                return is_first
        except StoreError as error:
            self.fault = str(error)
        if name in self._own:
            return False
        self._own[name] = data
        return True

    def _remove_before(self, number: int) -> None:
        try:
            for name in [name for name, (_, found) in self._names().items() if found < number]:
                self._own.pop(name, None)
                if self._notes is not None:
                    self._notes.remove(name)
        except StoreError as error:
            self.fault = str(error)


def _are_finite(returns: Returns) -> bool:
    return all(map(math.isfinite, returns.candidate + returns.baseline))
