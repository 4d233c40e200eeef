"""The choice of the version to act next: pure functions without I/O and without a clock."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

from shared.errors import ConfigurationError


@dataclass(frozen=True)
class Newest:
    """Follow the newest version that verifies."""

    def __str__(self) -> str:
        return "newest"


@dataclass(frozen=True)
class Pinned:
    """Act with this version only."""

    version: int

    def __str__(self) -> str:
        return f"pinned:{self.version}"


@dataclass(frozen=True)
class History:
    """Follow the newest version; with this probability an older one, drawn uniformly, acts an episode."""

    probability: float

    def __str__(self) -> str:
        return f"history:{self.probability:g}"


Follow = Newest | Pinned | History


def parse_follow(text: str) -> Follow:
    """Parse ``newest``, ``pinned:VERSION`` or ``history:PROBABILITY``. Raises ConfigurationError for anything else."""
    if text == "newest":
        return Newest()
    if match := re.fullmatch(r"pinned:v?(\d+)", text, re.ASCII):
        return Pinned(int(match[1]))
    if match := re.fullmatch(r"history:(\d*\.?\d+)", text, re.ASCII):
        probability = float(match[1])
        if probability <= 1.0:
            return History(probability)
    raise ConfigurationError(
        f"expected newest, pinned:VERSION or history:PROBABILITY (0 to 1) as the version to follow; found {text!r}"
    )


def check_canary(share: float | None, follow: Follow) -> None:
    """Raise ConfigurationError unless ``share`` is None, or in (0, 1) with ``Newest``."""
    if share is None:
        return
    if not 0 < share < 1:
        raise ConfigurationError(f"expected a share above 0 and below 1 for a canary, found {share:g}")
    if not isinstance(follow, Newest):
        raise ConfigurationError(f"a canary decides which new versions act, so it needs to follow newest, not {follow}")


def select_version(
    follow: Follow, known: Sequence[int], unusable: Container[int], held: int | None, highest_acted: int | None
) -> int | None:
    """Return the version to load now, or None if none is better than what is held.

    Args:
        follow: The rule.
        known: Committed versions, ascending.
        unusable: Versions that failed, or whose retry is not due yet.
        held: The best version that acts or is ready; None if no version can act.
        highest_acted: The highest version that ever acted. Nothing below it is selected while a version is held: an
            old version is only better than none.
    """
    if isinstance(follow, Pinned):
        wanted = follow.version
        return wanted if wanted in known and wanted not in unusable and held != wanted else None
    floor = None if held is None else max(held, held if highest_acted is None else highest_acted)
    for version in reversed(known):
        if floor is not None and version <= floor:
            return None
        if version not in unusable:
            return version
    return None


def draw_older(known: Sequence[int], unusable: Container[int], newest: int | None, draw: float) -> int | None:
    """Return a usable version older than ``newest``, uniformly by ``draw`` in [0, 1); None if there is none."""
    if newest is None:
        return None
    older = [version for version in known if version < newest and version not in unusable]
    return older[int(draw * len(older))] if older else None
