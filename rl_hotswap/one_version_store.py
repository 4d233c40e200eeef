"""A read-only policy store of one version, for evaluation."""

from collections.abc import Mapping
from pathlib import Path

from shared.errors import StoreError, VersionNotFound
from shared.policy.manifest import Manifest
from shared.store.policy_store import Retention, VersionFiles
from shared.store.version_files import DescribeVersion, Sign


class OneVersionStore:
    """A ``PolicyStore`` around one opened version. Quarantines are discarded."""

    def __init__(self, files: VersionFiles) -> None:
        self._files = files
        self.version = files.manifest.version

    def __str__(self) -> str:
        return self._files.location

    @property
    def watch_path(self) -> Path | None:
        return None

    @property
    def notes(self) -> None:
        return None

    def versions(self) -> list[int]:
        return [self.version]

    def newest(self) -> int | None:
        return self.version

    def open(self, version: int) -> VersionFiles:
        if version != self.version:
            raise VersionNotFound(
                f"this store holds version {self.version} only; found a request for version {version}"
            )
        return self._files

    def publish(
        self,
        files: Mapping[str, bytes],  # noqa: ARG002
        describe: DescribeVersion,  # noqa: ARG002
        *,
        durable: bool = True,  # noqa: ARG002
        sign: Sign | None = None,  # noqa: ARG002
    ) -> Manifest:
        raise StoreError(f"{self} is one version; publish into a store")

    def make_durable(self, version: int) -> None:
        pass

    def sweep(self, retention: Retention) -> list[int]:  # noqa: ARG002
        return []

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        pass

    def quarantined(self) -> dict[str, str]:
        return {}
