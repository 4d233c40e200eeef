"""The interface of policy stores, where versions are published under growing numbers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared.errors import ConfigurationError
from shared.policy.manifest import Manifest
from shared.store.local_policy_store import LocalPolicyStore, UsedNumbers
from shared.store.store_notes import StoreNotes
from shared.store.version_directory import open_version_directory
from shared.store.version_files import DescribeVersion, Retention, Sign, VersionFiles, parse_version_name, version_name

__all__ = [
    "LocalPolicyStore",
    "PolicyStore",
    "Retention",
    "UsedNumbers",
    "VersionFiles",
    "open_store",
    "open_version_directory",
    "parse_version_name",
    "version_name",
]


class PolicyStore(Protocol):
    """A store of versions; every implementation passes ``tests/contract/test_policy_store.py``.

    Every method may raise StoreUnavailable. A store that does not exist is empty; publishing creates it.
    """

    @property
    def watch_path(self) -> Path | None:
        """Directory whose file events announce versions (it may not exist yet), or None if only polling works."""

    @property
    def notes(self) -> StoreNotes | None:
        """Notes of canary evaluations, or None if the store has none."""

    def publish(
        self, files: Mapping[str, bytes], describe: DescribeVersion, *, durable: bool = True, sign: Sign | None = None
    ) -> Manifest:
        """Commit a version with the next number and return its manifest as readers see it.

        Readers see all of it or nothing, even if the publisher is killed.

        Args:
            files: content by name, without the manifest.
            describe: returns the manifest; called again with a higher number if another publisher was faster.
            durable: wait for the disk, so that the version survives a power cut; otherwise ``make_durable`` does.
            sign: returns the signature of the bytes of a manifest.

        Raises:
            ManifestError: readers would refuse the manifest.
        """

    def make_durable(self, version: int) -> None:
        """Sync ``version`` to the disk. Raises VersionNotFound if it was swept meanwhile."""

    def versions(self) -> list[int]:
        """Return the committed versions, ascending. One listing: cheap enough for polling."""

    def newest(self) -> int | None:
        """Return the highest committed version, or None."""

    def open(self, version: int) -> VersionFiles:
        """Read and check the manifest of ``version``. Raises VersionNotFound (select again) or ManifestError."""

    def sweep(self, retention: Retention) -> list[int]:
        """Remove versions that ``retention`` does not keep, and abandoned writes; return the removed versions."""

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        """Report that the manifest with ``digest`` failed. The first reason for a digest stays."""

    def quarantined(self) -> dict[str, str]:
        """Return the reports of all actors, digest -> reason."""


def open_store(where: str | Path) -> PolicyStore:
    """Open the store at a path or an fsspec URL (``s3://bucket/policies``). Raises ConfigurationError."""
    text = str(where)
    if not text:
        raise ConfigurationError("expected a directory or a URL for the policy store, found an empty string")
    local = re.sub(r"^(file|local)://", "", text)
    if "://" not in local:
        return LocalPolicyStore(Path(local).expanduser())
    from shared.store.remote_policy_store import RemotePolicyStore

    return RemotePolicyStore(text)
