"""What a chaos run finds: a line for each thing that happens, and every promise with what was seen of it."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

Promise = Literal[
    "no bad action",
    "no number used twice",
    "accounts exact",
    "invalid rollouts are rejected",
    "inference actors go on acting",
    "a killed actor acts again",
    "resumes from the newest whole checkpoint",
    "at most one checkpoint interval is lost",
    "nothing outlives the supervisor",
    "no orphan, no zombie",
    "the supervisor goes on",
    "Ctrl-C ends all in time",
    "nothing leaked",
    "logs free of tracebacks",
]
PROMISES: tuple[Promise, ...] = Promise.__args__  # type: ignore[attr-defined]


@dataclass
class _Kept:
    looked: int = 0
    measured_s: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Invariants:
    """Faults are counted, promises are checked; each is printed as it happens."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.faults: Counter[str] = Counter()
        self.notes: dict[str, str] = {}
        self._kept = {promise: _Kept() for promise in PROMISES}

    @property
    def is_good(self) -> bool:
        return not any(kept.broken for kept in self._kept.values())

    def did(self, fault: str, detail: str = "") -> None:
        """Count ``fault`` and print it."""
        self.faults[fault] += 1
        self.say(f"{fault} {detail}".rstrip())

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began_s:7.2f} s  {line}", flush=True)

    def looked(self, promise: Promise, times: int = 1) -> None:
        """It held so many times more."""
        self._kept[promise].looked += times

    def measured(self, promise: Promise, seconds: float) -> None:
        """It held, and took that long."""
        self.looked(promise)
        self._kept[promise].measured_s.append(seconds)

    def seconds(self, promise: Promise) -> list[float]:
        return self._kept[promise].measured_s

    def broken(self, promise: Promise, what: str) -> None:
        """It did not hold."""
        self._kept[promise].broken.append(f"{time.monotonic() - self.began_s:.2f} s: {what}")
        self.say(f"VIOLATION ({promise}): {what}")

    def hold(self, promise: Promise, is_so: bool, otherwise: str) -> None:
        """It holds if ``is_so``."""
        if is_so:
            self.looked(promise)
        else:
            self.broken(promise, otherwise)

    def show(self, console: Console) -> None:
        """Two tables: what was done, and what became of the promises."""
        faults = Table("fault", "times", title=f"{sum(self.faults.values())} faults")
        for fault, times in sorted(self.faults.items()):
            faults.add_row(fault, str(times))
        console.print(faults)
        promises = Table("promise", "looked", "kept", "seconds: median, max", title="promises")
        for promise, kept in self._kept.items():
            seconds = f"{median(kept.measured_s):.2f}, {max(kept.measured_s):.2f}" if kept.measured_s else ""
            invariants = (
                f"[red]{len(kept.broken)} times not" if kept.broken else "yes" if kept.looked else "not looked at"
            )
            promises.add_row(promise, str(kept.looked), invariants, seconds)
        console.print(promises)
        for name, note in self.notes.items():
            console.print(f"{name}: {note}", soft_wrap=True, highlight=False)
        for promise, kept in self._kept.items():
            for what in kept.broken:
                console.print(f"VIOLATION ({promise}) at {what}", soft_wrap=True, highlight=False, markup=False)

    def write(self, path: Path, *, seed: int) -> None:
        """All of it as JSON."""
        content = {
            "seed": seed,
            "good": self.is_good,
            "took_s": time.monotonic() - self.began_s,
            "faults": dict(self.faults),
            "notes": self.notes,
            "promises": {promise: vars(kept) for promise, kept in self._kept.items()},
        }
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
