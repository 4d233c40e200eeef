"""The count of the versions that a run has published."""

from collections.abc import Iterable

import msgspec


class PublishedVersions(msgspec.Struct, frozen=True):
    """The number of versions that all learners of a run have published, and the newest version counted."""

    count: int = 0
    newest: int | None = None

    def and_one_more(self, version: int) -> "PublishedVersions":
        """Return the count with ``version`` added."""
        return PublishedVersions(self.count + 1, version)

    def and_those_since(self, versions: Iterable[int]) -> "PublishedVersions":
        """Return the count with those of ``versions`` added that are newer than the newest counted."""
        since = [version for version in versions if self.newest is None or version > self.newest]
        return PublishedVersions(self.count + len(since), max(since, default=self.newest))
