"""The policy store: where versions are published, whole and verified, under numbers that only ever grow (DESIGN 5)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared.errors import ConfigurationError
from shared.policy.manifest import Manifest
from shared.store.local_policy_store import LocalPolicyStore
from shared.store.retention import Retention
from shared.store.store_notes import StoreNotes
from shared.store.version_directory import open_version_directory
from shared.store.version_files import DescribeVersion, Sign, VersionFiles, parse_version_name, version_name

__all__ = [
    "LocalPolicyStore",
    "PolicyStore",
    "Retention",
    "VersionFiles",
    "open_store",
    "open_version_directory",
    "parse_version_name",
    "version_name",
]


class PolicyStore(Protocol):
    """One conformance suite holds for every implementation: ``tests/contract/test_policy_store.py``.

    Every method may raise StoreUnavailable. A store that is not there yet is an empty one; publishing makes it.
    """

    @property
    def watch_path(self) -> Path | None:
        """Where file events tell of new versions (perhaps not there yet), or None where only polling helps."""
        ...

    @property
    def notes(self) -> StoreNotes | None:
        """What actors tell each other of trials, or None where this store takes no notes."""
        ...

    def publish(
        self,
        files: Mapping[str, bytes],
        describe: DescribeVersion,
        *,
        durable: bool = True,
        sign: Sign | None = None,
    ) -> Manifest:
        """Commit one version with these ``files`` under the next number, and return its manifest as readers see it.

        Readers see all of it or nothing, whoever is killed. ``durable`` promises the same for a power cut, and waits
        for the disk; without it, that holds only once ``make_durable`` has returned.
        ``describe`` makes the manifest for the number and the files' entries; it is called again with a higher number
        where another publisher was faster. ``sign`` gives the signature of each manifest's bytes. Raises ManifestError
        for a manifest that no reader would take.
        """
        ...

    def make_durable(self, version: int) -> None:
        """Return when the disk holds all of ``version``. Raises VersionNotFound where it was swept meanwhile."""
        ...

    def versions(self) -> list[int]:
        """The committed versions, ascending; cheap enough for polling: one listing."""
        ...

    def newest(self) -> int | None:
        """The highest committed version, or None."""
        ...

    def open(self, version: int) -> VersionFiles:
        """Read and check a version's manifest. Raises VersionNotFound (select again) or ManifestError."""
        ...

    def sweep(self, retention: Retention) -> list[int]:
        """Remove the versions that ``retention`` does not keep, and abandoned writes. Returns the versions removed."""
        ...

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        """Advise others that a manifest's ``digest`` failed. The first reason given for a digest stays."""
        ...

    def quarantined(self) -> dict[str, str]:
        """The advice of all actors: digest -> reason."""
        ...


def open_store(where: str | Path) -> PolicyStore:
    """The store at a path or an fsspec URL (``s3://bucket/policies``). Raises ConfigurationError for neither."""
    text = str(where)
    if not text:
        raise ConfigurationError("expected a directory or a URL for the policy store, found an empty text")
    local = re.sub(r"^(file|local)://", "", text)
    if "://" not in local:
        return LocalPolicyStore(Path(local).expanduser())
    from shared.store.remote_policy_store import RemotePolicyStore

    return RemotePolicyStore(text)
