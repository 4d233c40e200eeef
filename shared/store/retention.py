"""Selection of the versions that a store keeps. It is a pure function of version numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import ConfigurationError


@dataclass(frozen=True)
class Retention:
    """Keep the newest ``keep_newest``, every number that ``keep_every`` divides, and all that are ``pinned``."""

    keep_newest: int = 20
    keep_every: int | None = None
    pinned: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.keep_newest < 1:
            raise ConfigurationError(f"keep_newest has to be at least 1, found {self.keep_newest}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ConfigurationError(f"keep_every has to be at least 1, or None; found {self.keep_every}")

    def expendable(self, versions: Sequence[int]) -> list[int]:
        """Return the ``versions`` that may be removed, ascending; never the newest."""
        return [version for version in sorted(versions)[: -self.keep_newest] if not self._is_kept(version)]

    def _is_kept(self, version: int) -> bool:
        return version in self.pinned or (self.keep_every is not None and version % self.keep_every == 0)
