"""Errors of fsspec backends. The normal behaviour of remote stores is tested in tests/contract."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from shared.errors import StoreUnavailable, TransientLoadError, VersionNotFound
from shared.store import remote_policy_store
from shared.store.policy_store import Retention, version_name
from shared.store.remote_files import RemoteFiles
from shared.store.remote_policy_store import RemotePolicyStore
from tests.support.sample_versions import sample_files, sample_manifest


class BackendError(Exception):
    """An error of the library of a backend, which is not an OSError."""


class FaultyFileSystem(MemoryFileSystem):
    """A backend whose chosen operations fail for paths that contain a given text."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[dict[str, str]] = {}

    def _may_fail(self, operation: str, path: str) -> None:
        if operation in self.faults and self.faults[operation] in path:
            raise BackendError(f"503 for {operation}")

    def ls(self, path, detail=True, **options):
        self._may_fail("ls", path)
        return super().ls(path, detail=detail, **options)

    def info(self, path, **options):
        self._may_fail("info", path)
        return super().info(path, **options)

    def cat_file(self, path, start=None, end=None, **options):
        self._may_fail("cat_file", path)
        return super().cat_file(path, start, end, **options)

    def pipe_file(self, path, value, mode="overwrite", **options):
        self._may_fail("pipe_file", path)
        write = AbstractFileSystem.pipe_file if "xb" in self.faults else MemoryFileSystem.pipe_file
        write(self, path, value, mode=mode, **options)

    def rm(self, path, recursive=False, maxdepth=None):
        self._may_fail("rm", path)
        super().rm(path, recursive=recursive, maxdepth=maxdepth)

    def open(self, path, mode="rb", **options):
        if mode == "xb" and "xb" in self.faults:
            raise NotImplementedError(f"mode {mode!r}")
        return super().open(path, mode, **options)


@pytest.fixture
def store() -> Iterator[RemotePolicyStore]:
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    made = RemotePolicyStore("faulty://bucket/policies", abandon_after_s=0.0)
    made.publish(sample_files(), sample_manifest)
    yield made
    for kept in (FaultyFileSystem.store, FaultyFileSystem.faults):
        kept.clear()
    FaultyFileSystem.pseudo_dirs[:] = [""]


def another() -> RemotePolicyStore:
    """Return a new store object on the same place."""
    return RemotePolicyStore("faulty://bucket/policies", abandon_after_s=0.0)


def test_a_listing_that_fails_is_not_an_empty_store(store: RemotePolicyStore) -> None:
    FaultyFileSystem.faults["ls"] = "policies"
    for act in (store.versions, store.newest, store.quarantined, lambda: store.sweep(Retention())):
        with pytest.raises(StoreUnavailable, match=r"could not list .*BackendError: 503") as caught:
            act()
        assert isinstance(caught.value.__cause__, BackendError)
    with pytest.raises(StoreUnavailable):
        store.publish(sample_files(), sample_manifest)
    FaultyFileSystem.faults.clear()
    assert store.versions() == [0]


def test_a_version_that_cannot_be_inspected_is_not_swept_as_abandoned(store: RemotePolicyStore) -> None:
    FaultyFileSystem.faults["info"] = "manifest.json"
    with pytest.raises(StoreUnavailable, match="could not look at"):
        another().sweep(Retention())
    FaultyFileSystem.faults.clear()
    assert another().open(0).read("policy.ts") == sample_files()["policy.ts"]


def test_a_failed_read_is_transient(store: RemotePolicyStore) -> None:
    version = store.open(0)
    FaultyFileSystem.faults["cat_file"] = ""
    with pytest.raises(TransientLoadError, match=r"could not read .*503"):
        version.read("policy.ts")
    with pytest.raises(StoreUnavailable, match=r"could not read .*503"):
        another().open(0)
    FaultyFileSystem.faults.clear()
    assert version.read("policy.ts") == sample_files()["policy.ts"]


def test_a_failed_upload_is_not_a_version_and_is_swept(store: RemotePolicyStore) -> None:
    FaultyFileSystem.faults["pipe_file"] = "probe"
    with pytest.raises(StoreUnavailable, match=r"could not write .*probe\.safetensors"):
        store.publish(sample_files(), sample_manifest)
    FaultyFileSystem.faults.clear()
    assert store.versions() == another().versions() == [0]
    assert store.sweep(Retention()) == []
    assert not any(version_name(1) in path for path in FaultyFileSystem.store)
    assert store.publish(sample_files(), sample_manifest).version == 2


def test_an_upload_swept_as_abandoned_gets_no_manifest(
    store: RemotePolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FaultyFileSystem.pipe_file

    def sweep_before_the_last_file(self, path, value, mode="overwrite", **options):
        if path.endswith("probe.safetensors"):
            another().sweep(Retention())
        real(self, path, value, mode=mode, **options)

    monkeypatch.setattr(FaultyFileSystem, "pipe_file", sweep_before_the_last_file)
    with pytest.raises(StoreUnavailable, match=r"publish again: uploaded policy\.ts"):
        store.publish(sample_files(), sample_manifest)
    assert store.versions() == [0]


def test_a_backend_without_exclusive_creation_serves_one_publisher(store: RemotePolicyStore) -> None:
    FaultyFileSystem.faults["xb"] = ""
    assert store.publish(sample_files(), sample_manifest).version == 1
    assert another().publish(sample_files(), sample_manifest).version == 2


def test_an_empty_file_is_not_requested(store: RemotePolicyStore) -> None:
    """Object stores refuse an empty range."""
    version = store.publish(sample_files(b""), sample_manifest).version
    FaultyFileSystem.faults["cat_file"] = "weights"
    assert store.open(version).read("weights.safetensors") == b""


def test_a_url_may_end_with_a_slash(store: RemotePolicyStore) -> None:
    ending = RemotePolicyStore("faulty://bucket/policies/")
    assert ending.versions() == [0]
    assert str(ending) == str(store) == "faulty://bucket/policies"
    assert ending.publish(sample_files(), sample_manifest).version == 1


def test_one_byte_more_than_expected_is_read(store: RemotePolicyStore) -> None:
    assert RemoteFiles("faulty://bucket/policies").read("v000000/policy.ts", 3) == b"prog"


def test_an_upload_is_abandoned_ten_minutes_after_its_last_change(
    store: RemotePolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = RemotePolicyStore("faulty://bucket/policies")
    for now_s, upload, exists in (
        (1000, "a", True),
        (1500, "a", True),
        (1550, "b", True),
        (2149.5, "b", True),
        (2150, "b", False),
    ):
        if exists:
            FaultyFileSystem().pipe_file(f"faulty://bucket/policies/v000001/{upload}", b"half")
        monkeypatch.setattr(remote_policy_store, "time", SimpleNamespace(monotonic=lambda now_s=now_s: now_s))
        assert sweeper.sweep(Retention()) == []
        assert any("v000001" in path for path in FaultyFileSystem.store) is exists


def test_a_version_whose_sweep_failed_half_way_is_no_version(store: RemotePolicyStore) -> None:
    store.publish(sample_files(), sample_manifest)
    assert store.versions() == [0, 1]
    FaultyFileSystem.faults["rm"] = version_name(0)
    with pytest.raises(StoreUnavailable, match="could not remove"):
        store.sweep(Retention(keep_newest=1))
    assert store.versions() == another().versions() == [1]


def test_a_version_that_could_not_be_opened_is_looked_up_again(store: RemotePolicyStore) -> None:
    store.publish(sample_files(), sample_manifest)
    assert store.versions() == [0, 1]
    FaultyFileSystem().rm_file("faulty://bucket/policies/v000000/manifest.json")
    with pytest.raises(VersionNotFound):
        store.open(0)
    assert store.versions() == [1]


def test_a_manifest_that_is_removed_while_it_is_read_is_no_version(
    store: RemotePolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(self, path, start=None, end=None, **options):
        raise FileNotFoundError(path)

    monkeypatch.setattr(FaultyFileSystem, "cat_file", removed)
    with pytest.raises(VersionNotFound, match="swept meanwhile"):
        store.open(0)


def test_publishing_leaves_versions_and_one_mark(store: RemotePolicyStore) -> None:
    store.publish(sample_files(), sample_manifest)
    assert sorted(RemoteFiles("faulty://bucket/policies").list("")) == [".highest-000001", "v000000", "v000001"]


def test_the_placeholder_of_a_directory_is_no_entry(store: RemotePolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Object stores list it among the files of the directory."""

    def with_placeholder(self, path, detail=True, **options):
        found = MemoryFileSystem.ls(self, path, detail=detail, **options)
        return [{"name": f"{path}/", "size": 0, "type": "directory"}, *found]

    files = RemoteFiles("faulty://bucket/policies")
    before = files.list("v000000")
    monkeypatch.setattr(FaultyFileSystem, "ls", with_placeholder)
    assert files.list("v000000") == before
