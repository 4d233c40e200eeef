"""The policy stores that the contract suites run on. Add a new one to ``CASES``."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from shared.store.policy_store import LocalPolicyStore, PolicyStore, version_name
from shared.store.remote_policy_store import RemotePolicyStore


class StoreCase:
    """An empty place for a store, and direct access to its files."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self._fs, self.root = fsspec.core.url_to_fs(url)
        self._url = url

    def open(self, abandon_after_s: float = 600.0) -> PolicyStore:
        """Open a new store object on this place, as another process would."""
        if self.kind == "local":
            return LocalPolicyStore(Path(self.root), fsync=False, abandon_after_s=abandon_after_s)
        return RemotePolicyStore(self._url, abandon_after_s=abandon_after_s)

    def put(self, name: str, data: bytes) -> None:
        self._fs.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(f"{self.root}/{name}", data)

    def get(self, name: str) -> bytes:
        return self._fs.cat_file(f"{self.root}/{name}")

    def remove(self, name: str) -> None:
        self._fs.rm(f"{self.root}/{name}", recursive=True)

    def files(self) -> set[str]:
        """Return the paths of all files in the store, except marks."""
        found = (str(path).removeprefix(self.root).lstrip("/") for path in self._fs.find(self.root))
        return {name for name in found if not name.startswith(".highest-")}

    def marks(self) -> set[str]:
        """Return the names of the high-water marks."""
        return {str(path).rpartition("/")[2] for path in self._fs.find(self.root) if "/.highest-" in str(path)}

    def leave_unfinished_write(self) -> str:
        """Write what a killed publisher leaves before its commit; return the name of one of its files."""
        directory = f".pending/.tmp-{secrets.token_hex(4)}" if self.kind == "local" else version_name(9)
        self.put(f"{directory}/policy.ts", b"half a pro")
        return f"{directory}/policy.ts"


@contextmanager
def store_case(kind: str) -> Iterator[StoreCase]:
    """Yield a case of ``kind``, which is one of CASES, and clean up afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        place = f"memory://store-{secrets.token_hex(8)}" if kind == "memory" else f"file://{directory}/run/policies"
        case = StoreCase(kind, place)
        yield case
        if kind == "memory" and case.files():
            case.remove("")


CASES = ("local", "memory", "file")
DIRECTORY_CASES = ("local", "file")
