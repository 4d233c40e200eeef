"""The rule that decides which numbers in a store count: those that publishers can have reached.

Every publication takes the next number, so a number far above all used ones was made by something else. If it
counted, no later version would be newer, and a publisher would continue from it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loguru import logger

MAX_JUMP = 10**6
"""A number counts if it is at most this far above the highest used one."""

_MOST_REPORTED = 20


@dataclass(frozen=True)
class StoreNumbers:
    """The numbers of a store, ascending. ``highest`` is the highest used one, or -1."""

    versions: Sequence[int]
    marks: Sequence[int]
    highest: int
    ignored: Sequence[int] = ()


def is_plausible(number: int, used: int) -> bool:
    """Return True if publishers that have used ``used`` (-1: none) can have reached ``number``."""
    return number <= used + MAX_JUMP


def plausible_numbers(
    versions: Iterable[int], marks: Iterable[int], *, others: Iterable[int] = (), used: int | None = None
) -> StoreNumbers:
    """Return the numbers that count.

    Args:
        versions: Numbers of the directories of versions.
        marks: Numbers of the high-water marks. A publisher makes one before each version.
        others: Numbers of other entries with the name of a version. No version can take them.
        used: The highest number that the run has used, as recorded outside of the store; -1 for none. None: not
            recorded. Then the lowest mark is taken as used, because publishers remove the marks below their own.
    """
    marks = sorted(marks)
    if used is None:
        used = marks[0] if marks else -1
    kept: list[int] = []
    for mark in marks:
        if is_plausible(mark, used):
            kept.append(mark)
            used = max(used, mark)
    versions = sorted(versions)
    counted = [number for number in versions if is_plausible(number, used)]
    taken = (number for number in (*counted, *others) if is_plausible(number, used))
    return StoreNumbers(counted, kept, max([used, *taken]), sorted({*marks, *versions} - {*kept, *counted}))


class IgnoredNumbers:
    """Logs the ignored numbers of one store, each once."""

    def __init__(self, store: object) -> None:
        self._store = store
        self._reported: set[int] = set()

    def report(self, numbers: StoreNumbers) -> StoreNumbers:
        """Log those of ``numbers.ignored`` that were not logged before, and return ``numbers``."""
        new = [number for number in numbers.ignored if number not in self._reported]
        if new and len(self._reported) < _MOST_REPORTED:
            new = new[:_MOST_REPORTED]
            self._reported.update(new)
            logger.warning(
                "version numbers ignored store={} numbers={} highest_used={}: remove them, no publisher can have "
                "reached them",
                self._store,
                ",".join(map(str, new)),
                numbers.highest,
            )
        return numbers
