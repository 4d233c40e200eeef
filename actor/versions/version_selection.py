"""Which version should act next: pure functions of what is known, with no I/O and no clock."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

from shared.errors import ConfigurationError


@dataclass(frozen=True)
class Newest:
    """Follow the newest version that can be trusted."""

    def __str__(self) -> str:
        return "newest"


@dataclass(frozen=True)
class Pinned:
    """Act with this version and never with another."""

    version: int

    def __str__(self) -> str:
        return f"pinned:{self.version}"


@dataclass(frozen=True)
class History:
    """With this probability an episode is acted by an older version, drawn uniformly; otherwise by the newest."""

    probability: float

    def __str__(self) -> str:
        return f"history:{self.probability:g}"


Follow = Newest | Pinned | History


def parse_follow(text: str) -> Follow:
    """``newest``, ``pinned:VERSION`` or ``history:PROBABILITY``. Raises ConfigurationError for anything else."""
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
    """Raise ConfigurationError where new versions cannot be given that ``share`` of the episodes first."""
    if share is None:
        return
    if not 0 < share < 1:
        raise ConfigurationError(f"expected a share above 0 and below 1 for a canary, found {share:g}")
    if not isinstance(follow, Newest):
        raise ConfigurationError(f"a canary decides which new versions act, so it needs to follow newest, not {follow}")


def select_version(
    follow: Follow, known: Sequence[int], unusable: Container[int], held: int | None, highest_acted: int | None
) -> int | None:
    """The version to make ready now, or None where nothing better than what is held can be had.

    ``known``: committed versions, ascending. ``unusable``: versions that failed, or whose next attempt is not due yet.
    ``held``: the best version that acts or is ready to, None where nothing can act. ``highest_acted``: what was acted
    with already; nothing below it is chosen, unless nothing is held: acting again with an old version is better than
    not acting.
    """
    if isinstance(follow, Pinned):
        wanted = follow.version
        return wanted if wanted in known and wanted not in unusable and held != wanted else None
    floor = -1 if held is None else max(held, -1 if highest_acted is None else highest_acted)
    for version in reversed(known):
        if version <= floor:
            return None
        if version not in unusable:
            return version
    return None


def draw_older(known: Sequence[int], unusable: Container[int], newest: int | None, draw: float) -> int | None:
    """One of the usable versions older than ``newest``, uniformly by ``draw`` in [0, 1); None where there is none."""
    if newest is None:
        return None
    older = [version for version in known if version < newest and version not in unusable]
    return older[int(draw * len(older))] if older else None
