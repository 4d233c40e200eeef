"""The local store. The behaviour of every store is tested in tests/contract."""

import errno
import os
import shutil
import stat
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import (
    ConfigurationError,
    DigestMismatch,
    ManifestError,
    StoreError,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
)
from shared.files.storage_errors import store_unavailable
from shared.policy.manifest import MAX_VERSION_BYTES, FileEntry, encode_manifest
from shared.store import local_policy_store
from shared.store.pending_version import PendingVersion, is_abandoned
from shared.store.policy_store import (
    LocalPolicyStore,
    Retention,
    UsedNumbers,
    open_store,
    open_version_directory,
    parse_version_name,
    version_name,
)
from shared.store.remote_policy_store import RemotePolicyStore
from shared.store.version_directory import VersionDirectory
from shared.store.version_files import MAX_NUMBER, describe_files, mark_name, parse_mark_name
from tests.support.captured_logs import CapturedLogs
from tests.support.sample_versions import publish_samples, sample_files, sample_manifest


def names(store: LocalPolicyStore) -> set[str]:
    return {path.name for path in store.path.iterdir() if path.name != ".pending" or any(path.iterdir())}


@pytest.mark.parametrize(("version", "name"), [(0, "v000000"), (42, "v000042"), (1_234_567, "v1234567")])
def test_a_version_has_one_name(version: int, name: str) -> None:
    assert version_name(version) == name
    assert parse_version_name(name) == version


def test_a_mark_has_one_name() -> None:
    assert parse_mark_name(mark_name(42)) == 42
    for other in ("000042", "v000042", "highest-000042", ".highest-", ".highest-42"):
        assert parse_mark_name(other) is None


@given(st.text(alphabet="v0123456789x-", max_size=10))
def test_other_names_are_not_versions(name: str) -> None:
    assert parse_version_name(name) is None or version_name(parse_version_name(name)) == name  # type: ignore[arg-type]


@given(
    versions=st.sets(st.integers(0, 100), max_size=30),
    keep_newest=st.integers(1, 10),
    keep_every=st.none() | st.integers(1, 20),
    pinned=st.frozensets(st.integers(0, 100), max_size=5),
)
def test_retention(versions: set[int], keep_newest: int, keep_every: int | None, pinned: frozenset[int]) -> None:
    retention = Retention(keep_newest, keep_every, pinned)
    expendable = set(retention.expendable(list(versions)))
    kept = versions - expendable
    assert expendable <= versions
    assert set(sorted(versions)[-keep_newest:]) <= kept
    assert pinned & versions <= kept
    assert {v for v in versions if keep_every is not None and v % keep_every == 0} <= kept
    assert len(kept) <= keep_newest + len(pinned) + (0 if keep_every is None else 100 // keep_every + 1)
    assert not set(retention.expendable(sorted(kept)))
    for field in ("keep_newest", "keep_every"):
        with pytest.raises(ConfigurationError, match="at least 1"):
            Retention(**{field: 0})


def test_open_store_takes_paths_and_urls(tmp_path: Path) -> None:
    for where in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        found = open_store(where)
        assert isinstance(found, LocalPolicyStore)
        assert found.watch_path == tmp_path
    remote = open_store("memory://somewhere")
    assert isinstance(remote, RemotePolicyStore)
    assert remote.watch_path is None
    for where in ("", "nonsense://bucket", "s4://bucket/policies"):
        with pytest.raises(ConfigurationError, match="expected a"):
            open_store(where)


def test_a_store_keeps_its_path_in_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalPolicyStore(Path("policies"), fsync=False)
    monkeypatch.chdir("/")
    publish_samples(store, 1)
    assert LocalPolicyStore(tmp_path / "policies").versions() == [0]


def test_reading_creates_no_directory_and_a_removed_store_continues_its_numbers(
    store: LocalPolicyStore, tmp_path: Path
) -> None:
    assert (store.versions(), store.sweep(Retention()), store.quarantined()) == ([], [], {})
    assert list(tmp_path.iterdir()) == []
    publish_samples(store, 3)
    store.path.rename(tmp_path / "away")
    assert store.versions() == []
    publish_samples(store, 1)
    assert store.versions() == [3]


def test_a_store_may_be_a_link(store: LocalPolicyStore, tmp_path: Path) -> None:
    publish_samples(store, 1)
    (tmp_path / "link").symlink_to(store.path)
    linked = LocalPolicyStore(tmp_path / "link")
    assert linked.publish(sample_files(), sample_manifest).version == 1
    assert linked.versions() == store.versions() == [0, 1]
    assert linked.open(0).read("policy.ts")


def test_publishing_leaves_one_mark_and_nothing_else_and_others_may_read_it(store: LocalPolicyStore) -> None:
    publish_samples(store, 3)
    assert names(store) == {"v000000", "v000001", "v000002", ".highest-000002"}
    umask = os.umask(0)
    os.umask(umask)
    version = store.path / version_name(0)
    assert stat.S_IMODE(version.stat().st_mode) == 0o777 & ~umask
    assert {stat.S_IMODE(file.stat().st_mode) for file in version.iterdir()} == {0o666 & ~umask}


def test_one_fsync_for_each_file_and_two_for_the_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def count(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", count)
    publish_samples(LocalPolicyStore(tmp_path / "policies"), 1)
    assert synced[:3] == list(sample_files())
    assert synced[3] == "manifest.json"
    assert synced[4].startswith(".tmp-")
    assert synced[5:] == ["policies"]
    synced.clear()
    hasty = LocalPolicyStore(tmp_path / "policies", fsync=False)
    publish_samples(hasty, 1)
    hasty.make_durable(1)
    assert synced == []
    careful = LocalPolicyStore(tmp_path / "policies")
    version = careful.publish(sample_files(), sample_manifest, durable=False).version
    assert synced == []
    careful.make_durable(version)
    assert sorted(synced) == sorted([*sample_files(), "manifest.json", version_name(version), "policies"])
    with pytest.raises(VersionNotFound, match="version 9 was swept"):
        careful.make_durable(9)


def test_versions_is_one_listing(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_samples(store, 3)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert store.versions() == [0, 1, 2]
    assert listed == [store.path]


def test_remains_of_a_killed_sweeper_are_removed(store: LocalPolicyStore) -> None:
    publish_samples(store, 3)
    (store.path / version_name(0) / "manifest.json").unlink()
    (store.path / ".pending" / ".trash-0123456789abcdef").mkdir()
    assert store.sweep(Retention(keep_newest=1)) == [1]
    assert names(store) == {"v000002", ".highest-000002"}


def test_a_version_cannot_be_opened_once_its_sweep_began(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_samples(store, 2)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)  # as if the sweeper were killed here
    assert store.sweep(Retention(keep_newest=1)) == [0]
    with pytest.raises(VersionNotFound):
        store.open(0)


def test_a_write_with_a_live_writer_is_never_swept(store: LocalPolicyStore) -> None:
    """The lock decides, not the time stamps: a writer may be slow or stopped, and clocks may jump."""
    store.path.mkdir()
    hasty = LocalPolicyStore(store.path, abandon_after_s=0.0)
    with PendingVersion(store.path, fsync=False) as pending:
        pending.write({"policy.ts": b"program"})
        hasty.sweep(Retention())
        assert pending.commit(version_name(5))
    assert store.versions() == [5]


@pytest.mark.parametrize("age_s", [3600.0, -3600.0], ids=["old", "from the future, by a clock since set back"])
def test_a_write_is_abandoned_by_the_age_of_its_last_change(store: LocalPolicyStore, age_s: float) -> None:
    write = store.path / ".pending" / ".tmp-0123456789abcdef"
    write.mkdir(parents=True)
    (write / "policy.ts").write_bytes(b"half")
    then_unix_s = time.time() - age_s
    os.utime(write, (then_unix_s, then_unix_s))
    assert not is_abandoned(write, 600.0)  # the file in it is new
    os.utime(write / "policy.ts", (then_unix_s, then_unix_s))
    assert is_abandoned(write, 600.0)
    store.sweep(Retention())
    assert names(store) == set()


def test_files_and_links_are_not_abandoned_writes(tmp_path: Path) -> None:
    (tmp_path / ".tmp-file").write_bytes(b"")
    (tmp_path / ".tmp-link").symlink_to("/")
    assert not any(is_abandoned(tmp_path / name, 0.0) for name in (".tmp-file", ".tmp-link", ".tmp-gone"))


def test_partly_written_advice_is_swept(store: LocalPolicyStore) -> None:
    publish_samples(store, 1)
    half = store.path / "quarantine" / ".tmp-0123456789abcdef"
    half.parent.mkdir()
    half.write_bytes(b"{")
    store.sweep(Retention())
    assert half.exists()
    LocalPolicyStore(store.path, abandon_after_s=0.0).sweep(Retention())
    assert not half.exists()


def test_open_version_directory_opens_versions_outside_a_store(store: LocalPolicyStore, tmp_path: Path) -> None:
    publish_samples(store, 2)
    path = store.path / version_name(1)
    assert open_version_directory(path).manifest.version == 1
    (tmp_path / "latest").symlink_to(path)
    assert open_version_directory(tmp_path / "latest").read("policy.ts") == sample_files()["policy.ts"]
    path.rename(tmp_path / "my-best-policy")
    assert open_version_directory(tmp_path / "my-best-policy").manifest.version == 1
    (tmp_path / "my-best-policy").rename(tmp_path / version_name(2))
    with pytest.raises(ManifestError, match="expected a manifest of version 2, found one of 1"):
        open_version_directory(tmp_path / version_name(2))


def test_open_version_directory_reports_missing_versions(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    said = {"nothing": "no such version", "": r"manifest\.json", "file": "is a directory", "loop": "a link"}
    for name, message in said.items():
        with pytest.raises(VersionNotFound, match=message):
            open_version_directory(tmp_path / name)


def test_one_bad_read_does_not_fail_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = sample_manifest(0, describe_files(sample_files()))
    program = sample_files()["policy.ts"]
    reads = iter([b"flipped bits", program, b"flipped bits", program[:-1]])
    monkeypatch.setattr(VersionDirectory, "_read_once", lambda *_: next(reads))
    version = VersionDirectory(Path("here"), manifest, b"")
    assert version.read("policy.ts") == program
    with pytest.raises(DigestMismatch, match=r"here/policy\.ts: expected 512 bytes, found 511"):
        version.read("policy.ts")


def test_a_version_swept_between_two_opens_is_not_found(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is open when it is removed: the version is missing then, not one file of it."""
    publish_samples(store, 2)
    version = store.open(0)
    real_open = os.open

    def sweep_before_the_file(path: str | Path, *args: int, dir_fd: int | None = None) -> int:
        if path == "policy.ts":
            monkeypatch.undo()
            assert store.sweep(Retention(keep_newest=1)) == [0]
        return real_open(path, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", sweep_before_the_file)
    with pytest.raises(VersionNotFound, match="swept meanwhile"):
        version.read("policy.ts")


@pytest.mark.parametrize(
    ("claimed", "error", "message"),
    [
        (7 * 2**30, DigestMismatch, "found 512"),  # and allocates nothing
        (MAX_VERSION_BYTES, ManifestError, "expected a version of at most"),
    ],
)
def test_a_manifest_that_claims_too_many_bytes_is_refused(
    store: LocalPolicyStore, claimed: int, error: type[Exception], message: str
) -> None:
    publish_samples(store, 1)
    opened = store.open(0).manifest
    huge = {**opened.files, "policy.ts": FileEntry(sha256="0" * 64, size_bytes=claimed)}
    path = store.path / version_name(0) / "manifest.json"
    path.write_bytes(encode_manifest(msgspec.structs.replace(opened, files=huge)))
    with pytest.raises(error, match=message):
        store.open(0).read("policy.ts")


def test_a_huge_file_is_not_read_to_its_end(store: LocalPolicyStore) -> None:
    publish_samples(store, 1)
    os.truncate(store.path / version_name(0) / "policy.ts", 2**40)  # sparse
    with pytest.raises(DigestMismatch, match="expected 512 bytes, found more"):
        store.open(0).read("policy.ts")


def test_an_input_output_error_is_transient() -> None:
    """Reading address 0 of /proc/self/mem is an I/O error."""
    manifest = sample_manifest(0, {"mem": FileEntry(sha256="0" * 64, size_bytes=8)})
    with pytest.raises(TransientLoadError, match="check that disk"):
        VersionDirectory(Path(f"/proc/{os.getpid()}"), manifest, b"").read("mem")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "mount it writable"),
        (errno.EACCES, "let this user"),
        (errno.EIO, "check that disk"),
        (errno.ESTALE, "mount the network file system again"),
        (errno.EMFILE, "raise this process's limit"),
    ],
)
def test_errors_of_the_storage_name_a_remedy(code: int, advice: str) -> None:
    error = store_unavailable(OSError(code, os.strerror(code)), "publish into /store")
    assert str(error).startswith(f"could not publish into /store: {os.strerror(code)}; {advice}")
    for other, said in ((RuntimeError("403"), "RuntimeError: 403"), (OSError("throttled"), "throttled")):
        assert str(store_unavailable(other, "list s3://b")) == f"could not list s3://b: {said}"


def test_a_file_in_place_of_the_store_is_unavailable(store: LocalPolicyStore) -> None:
    store.path.write_bytes(b"")
    for act in (store.versions, store.newest, lambda: store.sweep(Retention())):
        with pytest.raises(StoreUnavailable, match="move the file that has the directory") as caught:
            act()
        assert isinstance(caught.value.__cause__, NotADirectoryError)


def test_a_version_that_cannot_be_removed_is_reported_once(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch, captured_logs: CapturedLogs
) -> None:
    publish_samples(store, 2)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        for swept in ([0], [], []):
            assert store.sweep(Retention(keep_newest=1)) == swept
    assert captured_logs.messages("WARNING") == [
        f"swept version not removed yet store={store.path} directory={version_name(0)}"
    ]
    assert store.sweep(Retention(keep_newest=1)) == []
    assert store.versions() == [1]


def test_used_numbers_only_grow(tmp_path: Path) -> None:
    numbers = UsedNumbers(tmp_path / "run" / "numbers")
    assert numbers.highest() == -1
    assert [numbers.use(number) for number in (0, 0, 5, 3, 5, 6)] == [True, False, True, False, False, True]
    assert numbers.highest() == UsedNumbers(tmp_path / "run" / "numbers").highest() == 6
    assert [path.name for path in (tmp_path / "run" / "numbers").iterdir()] == [".highest-000006"]


def test_a_store_with_used_numbers_continues_after_all_of_them(tmp_path: Path) -> None:
    numbers = UsedNumbers(tmp_path / "numbers")
    numbers.use(7)
    store = LocalPolicyStore(tmp_path / "policies", fsync=False, used_numbers=numbers)
    assert store.publish(sample_files(), sample_manifest).version == 8
    numbers.use(20)  # by another publisher
    assert store.publish(sample_files(), sample_manifest).version == 21
    assert numbers.highest() == 21


def test_versions_count_up_to_a_million_above_the_used_numbers(tmp_path: Path) -> None:
    numbers = UsedNumbers(tmp_path / "numbers")
    numbers.use(5_000_000)
    store = LocalPolicyStore(tmp_path / "policies", fsync=False, used_numbers=numbers)
    for version in (5_000_000, 6_000_001):
        (store.path / version_name(version)).mkdir(parents=True)
    assert store.versions() == [5_000_000]
    assert LocalPolicyStore(store.path, fsync=False).versions() == []


def test_the_numbers_of_a_publisher_continue_in_a_store_that_another_began_again(store: LocalPolicyStore) -> None:
    store.path.mkdir()
    (store.path / mark_name(5_000_000)).touch()
    assert store.publish(sample_files(), sample_manifest).version == 5_000_001
    shutil.rmtree(store.path)
    publish_samples(LocalPolicyStore(store.path, fsync=False), 1)
    assert store.publish(sample_files(), sample_manifest).version == 5_000_002


def test_a_publisher_continues_after_a_faster_one_of_its_run(tmp_path: Path) -> None:
    numbers = UsedNumbers(tmp_path / "numbers")
    store = LocalPolicyStore(tmp_path / "policies", fsync=False, used_numbers=numbers)
    publish_samples(store, 1)
    for used in (9, 3_000_000):
        numbers.use(used)
        assert store.publish(sample_files(), sample_manifest).version == used + 1
        assert numbers.highest() == used + 1


def test_the_last_number_is_used_and_none_after_it(store: LocalPolicyStore) -> None:
    store.path.mkdir()
    (store.path / mark_name(MAX_NUMBER - 1)).touch()
    assert store.publish(sample_files(), sample_manifest).version == MAX_NUMBER
    for publisher in (store, LocalPolicyStore(store.path, fsync=False)):
        with pytest.raises(StoreError, match="has no successor"):
            publisher.publish(sample_files(), sample_manifest)


def test_the_description_of_a_store_is_its_path(store: LocalPolicyStore) -> None:
    assert repr(store) == f"LocalPolicyStore('{store.path}')"


def test_a_file_with_the_name_of_a_version_takes_its_number(store: LocalPolicyStore) -> None:
    publish_samples(store, 1)
    (store.path / version_name(5)).write_bytes(b"")
    assert LocalPolicyStore(store.path, fsync=False).publish(sample_files(), sample_manifest).version == 6


def test_two_publishers_may_create_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalPolicyStore(tmp_path / "run" / "policies", fsync=False)

    def created_by_another(path: Path, *, fsync: bool) -> PendingVersion:
        monkeypatch.undo()
        path.mkdir(parents=True)
        raise FileNotFoundError(path)

    monkeypatch.setattr(local_policy_store, "PendingVersion", created_by_another)
    assert store.publish(sample_files(), sample_manifest).version == 0
