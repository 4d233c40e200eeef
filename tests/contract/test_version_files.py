"""The contract of opened versions: bytes are verified before they are returned, and only regular files are read."""

import os
from hashlib import sha256
from pathlib import Path
from unittest.mock import Mock

import pytest
from blake3 import blake3
from msgspec import UNSET

from shared.errors import DigestMismatch, ManifestError, TransientLoadError, VersionNotFound
from shared.files.buffer_pool import BufferPool, Data
from shared.policy.manifest import MAX_MANIFEST_BYTES, Manifest, encode_manifest
from shared.store.policy_store import version_name
from tests.support.sample_versions import publish_sample, publish_samples, sample_files
from tests.support.store_cases import DIRECTORY_CASES, StoreCase

WEIGHTS = "weights.safetensors"


def _sha256(data: bytes) -> str:
    return sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def published(case: StoreCase) -> Manifest:
    """The first version of the store."""
    return publish_sample(case.open())


@pytest.fixture
def hashed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash files of 7 bytes and more on another thread."""
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 7)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            b"weighty",
            f"expected SHA-256 {sha256(b'weights').hexdigest()}, found {sha256(b'weighty').hexdigest()}; read",
        ),
        (b"weight", "expected 7 bytes, found 6"),
        (b"weights and more", "expected 7 bytes, found more"),
        (b"", "expected 7 bytes, found 0"),
    ],
    ids=["flipped", "truncated", "longer", "empty"],
)
def test_changed_bytes_are_never_returned(case: StoreCase, bad: bytes, message: str) -> None:
    case.put(f"{version_name(0)}/{WEIGHTS}", bad)
    version = case.open().open(0)
    with pytest.raises(DigestMismatch, match=f"weights.safetensors.*{message}"):
        version.read(WEIGHTS)
    assert version.read("policy.ts") == sample_files()["policy.ts"]


@pytest.mark.usefixtures("hashed_apart")
def test_bytes_are_passed_on_while_they_are_verified(case: StoreCase) -> None:
    version = case.open().open(0)
    seen: list[Data] = []
    assert version.read_ahead(WEIGHTS, seen.append, BufferPool()) is seen[0]
    case.put(f"{version_name(0)}/{WEIGHTS}", b"weighty")
    with pytest.raises(DigestMismatch, match="SHA-256"):
        version.read_ahead(WEIGHTS, seen.append, BufferPool())
    assert seen == [b"weights", b"weighty"]
    case.put(f"{version_name(0)}/{WEIGHTS}", b"weight")
    with pytest.raises(DigestMismatch, match="expected 7 bytes, found 6"):
        version.read_ahead(WEIGHTS, seen.append, BufferPool())
    assert len(seen) == 2, "a file of the wrong size is not passed on"


@pytest.fixture(params=["here", "apart", "no thread"])
def _hashed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "here":
        monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 0)
    if request.param == "no thread":
        refuse = Mock(side_effect=RuntimeError("can't start new thread"))
        monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)


@pytest.mark.usefixtures("_hashed")
@pytest.mark.parametrize("name", sorted(sample_files()))
def test_every_file_that_the_manifest_lists_is_verified_though_nobody_reads_it(case: StoreCase, name: str) -> None:
    version = case.open().open(0)
    with version.verifying_others():
        version.read(WEIGHTS)
    other = sample_files(b"weights")[name]
    case.put(f"{version_name(0)}/{name}", bytes([other[0] ^ 1]) + other[1:])
    version = case.open().open(0)
    with pytest.raises(DigestMismatch, match=rf"{name}: expected SHA-256.*read twice"), version.verifying_others():
        pass
    case.put(f"{version_name(0)}/{name}", other + b"more")
    with pytest.raises(DigestMismatch, match=f"{name}: expected .* bytes, found more"):
        version.verify_others()
    case.remove(f"{version_name(0)}/{name}")
    with pytest.raises(TransientLoadError, match=name):
        version.verify_others()


def test_a_file_is_verified_once(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    version = case.open().open(0)
    for name in version.manifest.files:
        version.read(name)
    monkeypatch.setattr(type(version), "_hash", Mock(side_effect=AssertionError("read again")))
    version.verify_others()


@pytest.mark.usefixtures("hashed_apart")
def test_buffers_are_not_reused_while_they_are_referenced(case: StoreCase) -> None:
    store, memory = case.open(), BufferPool()
    expected = [b"weights", *(b"weights %d" % i for i in range(4))]
    publish_samples(store, 4)
    found = [store.open(i).read_ahead(WEIGHTS, print, memory) for i in range(len(expected))]
    assert found == expected
    found.clear()
    assert store.open(0).read_ahead(WEIGHTS, print, memory) == expected[0]


def test_bytes_are_verified_when_no_thread_can_be_started(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 0)
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    version = case.open().open(0)
    seen: list[Data] = []
    assert version.read_ahead(WEIGHTS, seen.append, BufferPool()) == b"weights"
    case.put(f"{version_name(0)}/{WEIGHTS}", b"weighty")
    with pytest.raises(DigestMismatch):
        version.read_ahead(WEIGHTS, seen.append, BufferPool())
    assert seen == []


@pytest.mark.usefixtures("hashed_apart")
def test_bytes_of_a_second_read_are_not_those_passed_on_before(case: StoreCase) -> None:
    name = f"{version_name(0)}/{WEIGHTS}"
    case.put(name, b"weighty")
    seen: list[Data] = []

    def see_and_repair(data: Data) -> None:
        seen.append(data)
        case.put(name, b"weights")

    assert case.open().open(0).read_ahead(WEIGHTS, see_and_repair, BufferPool()) == b"weights"
    assert seen == [b"weighty"]


def test_a_missing_file_is_a_transient_error(case: StoreCase) -> None:
    name = f"{version_name(0)}/policy.ts"
    program = case.get(name)
    case.remove(name)
    version = case.open().open(0)
    with pytest.raises(TransientLoadError, match=r"policy\.ts"):
        version.read("policy.ts")
    case.put(name, program)
    assert version.read("policy.ts") == program


@pytest.mark.parametrize("name", ["other", "manifest.json", "../v000000/policy.ts", "/etc/passwd", ""])
def test_only_files_of_the_manifest_are_read(case: StoreCase, name: str) -> None:
    version = case.open().open(0)
    for read in (version.read, lambda name: version.read_ahead(name, print, BufferPool())):
        with pytest.raises(ManifestError, match="lists no file"):
            read(name)


@pytest.mark.parametrize("manifest", [b"", b"{", b"\xff\xfe", b"[]", b"null", b" " * (MAX_MANIFEST_BYTES + 1)])
def test_an_invalid_manifest_is_refused(case: StoreCase, manifest: bytes) -> None:
    case.put(f"{version_name(0)}/manifest.json", manifest)
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        case.open().open(0)


def test_a_version_under_another_number_is_refused(case: StoreCase, published: Manifest) -> None:
    for name, data in {**sample_files(b"weights"), "manifest.json": encode_manifest(published)}.items():
        case.put(f"{version_name(7)}/{name}", data)
    with pytest.raises(ManifestError, match=f"{version_name(7)}: expected a manifest of version 7, found one of 0"):
        case.open().open(7)


@pytest.mark.parametrize("case", DIRECTORY_CASES, indirect=True)
@pytest.mark.parametrize(("name", "error"), [("policy.ts", DigestMismatch), ("manifest.json", ManifestError)])
def test_links_pipes_and_directories_are_not_files(case: StoreCase, name: str, error: type[Exception]) -> None:
    file = Path(case.root, version_name(0), name)
    elsewhere = file.rename(Path(case.root, "elsewhere"))
    for put_there in (lambda: file.symlink_to(elsewhere), lambda: os.mkfifo(file), file.mkdir):
        put_there()
        with pytest.raises(error, match=rf"{name}: expected a regular file"):
            case.open().open(0).read("policy.ts")
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


@pytest.mark.parametrize("case", DIRECTORY_CASES, indirect=True)
def test_a_link_is_not_a_version(case: StoreCase) -> None:
    Path(case.root, version_name(5)).symlink_to(version_name(0))
    assert case.open().versions() == [0]
    with pytest.raises((VersionNotFound, ManifestError)):
        case.open().open(5)


@pytest.mark.usefixtures("_hashed")
def test_large_files_are_verified_by_blake3(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.files.digests.BLAKE3_FROM_BYTES", 7)
    store = case.open()
    manifest = publish_sample(store)
    entry = manifest.files[WEIGHTS]
    assert (entry.blake3, entry.sha256) == (blake3(b"weights").hexdigest(), UNSET)
    assert manifest.format_version == 2
    version = store.open(manifest.version)
    assert version.read(WEIGHTS) == version.read_ahead(WEIGHTS, print, BufferPool()) == b"weights"
    with version.verifying_others():
        pass
    case.put(f"{version_name(manifest.version)}/{WEIGHTS}", b"weighty")
    version = store.open(manifest.version)
    message = f"expected BLAKE3 {entry.blake3}, found {blake3(b'weighty').hexdigest()}; read twice"
    for read in (
        lambda: version.read(WEIGHTS),
        lambda: version.read_ahead(WEIGHTS, print, BufferPool()),
        version.verify_others,
    ):
        with pytest.raises(DigestMismatch, match=message):
            read()
