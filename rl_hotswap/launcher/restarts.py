"""Decisions about processes that died: the delay before a restart, and the end of restarting. Pure functions."""

import re
from dataclasses import dataclass

FAILURES_TO_END = 5
"""Identical failures of an environment in a row that end a training."""

_HEALTHY_AFTER_S = 30.0
# Simulators take minutes to start; an actor that acted longer than this did useful work before it failed.
_ENVIRONMENT_HEALTHY_AFTER_S = 600.0
_NUMBER = re.compile(r"\d+")


def count_deaths_in_a_row(before: int, lived_s: float, *, made_progress: bool) -> int:
    """Return the number of deaths in a row after one more: 1 when the process lived long or made progress."""
    return 1 if made_progress or lived_s >= _HEALTHY_AFTER_S else before + 1


def restart_delay_s(deaths_in_a_row: int) -> float:
    """Return the delay before a restart: 0.5 s, doubled with each further death in a row, 10 s at most."""
    return min(10.0, 0.5 * 2.0 ** min(deaths_in_a_row - 1, 10))


@dataclass(frozen=True)
class EnvironmentFailures:
    """The last failures of an environment in one process: their sentence, and how many in a row are identical."""

    sentence: str = ""
    in_a_row: int = 0

    def after(self, sentence: str, lived_s: float) -> "EnvironmentFailures":
        """Return the failures after one more, in a process that lived ``lived_s`` seconds.

        Two failures are identical if their sentences differ in numbers only: steps and measured values vary. A process
        that lived for ten minutes begins a new row.
        """
        is_next = _pattern(sentence) == _pattern(self.sentence) and lived_s < _ENVIRONMENT_HEALTHY_AFTER_S
        return EnvironmentFailures(sentence, self.in_a_row + 1 if is_next else 1)


def _pattern(sentence: str) -> str:
    return _NUMBER.sub("0", sentence)
