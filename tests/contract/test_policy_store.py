"""What every policy store promises, whatever it is kept on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DigestMismatch, ManifestError, StoreUnavailable, TransientLoadError, VersionNotFound
from shared.files.buffer_pool import BufferPool, Data
from shared.policy.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, decode_manifest, encode_manifest
from shared.store.policy_store import PolicyStore, Retention, version_name
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.store_cases import CASES, StoreCase, store_case


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[StoreCase]:
    with store_case(request.param) as made:
        yield made


@pytest.fixture(params=[kind for kind in CASES if kind != "memory"])
def directory_case(request: pytest.FixtureRequest) -> Iterator[StoreCase]:
    """Stores that lie in a directory of this machine, where there are links and pipes."""
    with store_case(request.param) as made:
        yield made


def publish(store: PolicyStore, content: bytes = b"weights") -> Manifest:
    return store.publish(sample_files(content), sample_manifest)


def publish_many(store: PolicyStore, count: int) -> None:
    for i in range(count):
        publish(store, b"weights %d" % i)


def test_a_store_that_is_not_there_yet_is_empty(case: StoreCase) -> None:
    store = case.open()
    assert store.versions() == []
    assert store.newest() is None
    assert store.sweep(Retention()) == []
    assert store.quarantined() == {}
    with pytest.raises(VersionNotFound, match=version_name(0)):
        store.open(0)


def test_what_is_published_is_what_every_reader_gets(case: StoreCase) -> None:
    published = publish(case.open(), b"these")
    reader = case.open()
    assert reader.versions() == [0]
    assert reader.newest() == 0
    version = reader.open(0)
    assert version.manifest == published
    assert decode_manifest(version.manifest_bytes) == published
    assert version_name(0) in version.location
    assert {name: version.read(name) for name in published.files} == sample_files(b"these")


def test_a_store_says_where_it_is(case: StoreCase) -> None:
    assert case.root.lstrip("/") in str(case.open())


def test_empty_files_are_files(case: StoreCase) -> None:
    publish(case.open(), b"")
    assert case.open().open(0).read("weights.safetensors") == b""


def test_a_version_can_act_before_the_disk_holds_it(case: StoreCase) -> None:
    store = case.open()
    version = store.publish(sample_files(), sample_manifest, durable=False).version
    assert case.open().open(version).read("policy.ts") == sample_files()["policy.ts"]
    store.make_durable(version)
    assert case.open().open(version).read("policy.ts") == sample_files()["policy.ts"]


def test_a_store_object_sees_what_others_publish(case: StoreCase) -> None:
    reader, publisher = case.open(), case.open()
    for version in range(3):
        publish(publisher)
        assert reader.newest() == version
    assert reader.versions() == [0, 1, 2]


def test_the_newest_number_is_not_used_again_when_its_directory_is_deleted(case: StoreCase) -> None:
    publish_many(case.open(), 3)
    case.remove(version_name(2))
    store = case.open()
    assert store.newest() == 1
    assert publish(store).version == 3


def test_no_number_is_used_again_when_every_directory_is_deleted(case: StoreCase) -> None:
    publish_many(case.open(), 3)
    for version in range(3):
        case.remove(version_name(version))
    store = case.open()
    assert store.newest() is None
    assert publish(store).version == 3


def test_a_publisher_that_loses_the_race_takes_the_next_number(case: StoreCase) -> None:
    slow, fast = case.open(), case.open()
    asked = []

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        asked.append(version)
        if len(asked) <= 2:
            publish(fast, b"fast")
        return sample_manifest(version, entries)

    assert slow.publish(sample_files(b"slow"), describe).version == 2
    assert asked[0] == 0
    assert asked[-1] == 2
    reader = case.open()
    assert reader.versions() == [0, 1, 2]
    assert [reader.open(v).read("weights.safetensors") for v in (0, 1, 2)] == [b"fast", b"fast", b"slow"]
    assert publish(fast).version == 3


def test_a_number_is_not_taken_up_again_after_others_have_gone_beyond_it(case: StoreCase) -> None:
    """The mark of the number is gone by then, and so is its directory: nothing but the higher mark tells."""
    slow, fast = case.open(), case.open()
    asked = []

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        asked.append(version)
        if len(asked) == 1:
            publish_many(fast, 3)
            for other in range(3):
                case.remove(version_name(other))
        return sample_manifest(version, entries)

    assert slow.publish(sample_files(), describe).version == 3
    assert case.open().versions() == [3]


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "..", "", "manifest.json", ".hidden", "x" * 200])
def test_names_outside_the_version_are_never_written(case: StoreCase, name: str) -> None:
    with pytest.raises(ManifestError):
        case.open().publish({**sample_files(), name: b"outside"}, sample_manifest)
    assert case.files() == set()


def test_a_manifest_that_describes_something_else_is_not_published(case: StoreCase) -> None:
    store = case.open()
    with pytest.raises(ManifestError, match="expected a manifest of version 0"):
        store.publish(sample_files(), lambda version, entries: sample_manifest(version + 1, entries))
    with pytest.raises(ManifestError, match="expected a manifest of version 0"):
        store.publish(sample_files(), lambda version, entries: sample_manifest(version, {}))
    assert case.files() == set()
    assert publish(store).version == 0


def test_an_error_of_the_callers_own_is_left_alone(case: StoreCase) -> None:
    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        case.open().publish(sample_files(), describe)
    assert case.files() == set()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"weighty", "SHA-256"),
        (b"weight", "expected 7 bytes, found 6"),
        (b"weights and more", "expected 7 bytes, found more"),
        (b"", "expected 7 bytes, found 0"),
    ],
    ids=["flipped", "truncated", "longer", "empty"],
)
def test_changed_bytes_are_never_returned(case: StoreCase, bad: bytes, says: str) -> None:
    publish(case.open())
    case.put(f"{version_name(0)}/weights.safetensors", bad)
    version = case.open().open(0)
    with pytest.raises(DigestMismatch, match=f"weights.safetensors.*{says}"):
        version.read("weights.safetensors")
    assert version.read("policy.ts") == sample_files()["policy.ts"]


def test_bytes_can_be_looked_at_while_they_are_verified(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 7)
    publish(case.open())
    version = case.open().open(0)
    seen: list[Data] = []
    assert version.read_ahead("weights.safetensors", seen.append, BufferPool()) is seen[0]
    case.put(f"{version_name(0)}/weights.safetensors", b"weighty")
    with pytest.raises(DigestMismatch, match="SHA-256"):
        version.read_ahead("weights.safetensors", seen.append, BufferPool())
    assert seen == [b"weights", b"weighty"]
    case.put(f"{version_name(0)}/weights.safetensors", b"weight")
    with pytest.raises(DigestMismatch, match="expected 7 bytes, found 6"):
        version.read_ahead("weights.safetensors", seen.append, BufferPool())
    assert len(seen) == 2, "what is too short is not worth a look"


def test_what_was_read_ahead_stays_as_it_is_while_it_is_held(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 7)
    store, memory = case.open(), BufferPool()
    expected = [b"weights %d" % i for i in range(4)]
    publish_many(store, len(expected))
    found = [store.open(i).read_ahead("weights.safetensors", print, memory) for i in range(len(expected))]
    assert found == expected
    found.clear()
    assert store.open(0).read_ahead("weights.safetensors", print, memory) == expected[0]


def test_only_files_of_the_manifest_are_read_ahead(case: StoreCase) -> None:
    publish(case.open())
    with pytest.raises(ManifestError, match="lists no file"):
        case.open().open(0).read_ahead("nowhere", print, BufferPool())


def test_bytes_are_verified_where_no_thread_can_be_started(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, *_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 0)
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    publish(case.open())
    version = case.open().open(0)
    seen: list[Data] = []
    assert version.read_ahead("weights.safetensors", seen.append, BufferPool()) == b"weights"
    case.put(f"{version_name(0)}/weights.safetensors", b"weighty")
    with pytest.raises(DigestMismatch):
        version.read_ahead("weights.safetensors", seen.append, BufferPool())
    assert seen == []


def test_bytes_that_come_right_the_second_time_are_not_those_that_were_looked_at(
    case: StoreCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 7)
    publish(case.open())
    name = f"{version_name(0)}/weights.safetensors"
    case.put(name, b"weighty")
    seen: list[Data] = []

    def look_and_mend(data: Data) -> None:
        seen.append(data)
        case.put(name, b"weights")

    assert case.open().open(0).read_ahead("weights.safetensors", look_and_mend, BufferPool()) == b"weights"
    assert seen == [b"weighty"]


def test_a_file_that_is_missing_may_yet_come(case: StoreCase) -> None:
    publish(case.open())
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
    publish(case.open())
    with pytest.raises(ManifestError, match="lists no file"):
        case.open().open(0).read(name)


@pytest.mark.parametrize("manifest", [b"", b"{", b"\xff\xfe", b"[]", b"null", b" " * (MAX_MANIFEST_BYTES + 1)])
def test_what_is_no_manifest_is_refused(case: StoreCase, manifest: bytes) -> None:
    publish(case.open())
    case.put(f"{version_name(0)}/manifest.json", manifest)
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        case.open().open(0)


def test_a_version_under_another_number_is_refused(case: StoreCase) -> None:
    published = publish(case.open())
    for name, data in {**sample_files(b"weights"), "manifest.json": encode_manifest(published)}.items():
        case.put(f"{version_name(7)}/{name}", data)
    with pytest.raises(ManifestError, match="expected a manifest of version 7, found one of 0"):
        case.open().open(7)


def test_a_directory_without_a_manifest_cannot_be_opened(case: StoreCase) -> None:
    case.put(f"{version_name(3)}/policy.ts", b"program")
    with pytest.raises(VersionNotFound):
        case.open().open(3)


def test_other_names_in_the_store_are_no_versions(case: StoreCase) -> None:
    publish(case.open())
    for name in (
        "v42",
        "v0000042",
        "v-00001",
        "vabcdef",
        "V000042",
        "v000042.old",
        "v00004\N{ARABIC-INDIC DIGIT TWO}",
        "latest",
        "v" + "9" * 30,
    ):
        case.put(f"{name}/manifest.json", b"{}")
    case.put("v000099", b"a file")
    store = case.open()
    assert store.versions() == [0]
    assert store.sweep(Retention(keep_newest=1)) == []


def test_a_version_opened_and_then_swept_is_not_found(case: StoreCase) -> None:
    store = case.open()
    publish_many(store, 2)
    version = case.open().open(0)
    assert store.sweep(Retention(keep_newest=1)) == [0]
    with pytest.raises(VersionNotFound, match=version_name(0)):
        version.read("policy.ts")
    with pytest.raises(VersionNotFound):
        case.open().open(0)


def test_sweeping_keeps_the_newest_the_milestones_and_the_pinned(case: StoreCase) -> None:
    store = case.open()
    publish_many(store, 9)
    assert store.sweep(Retention(keep_newest=2, keep_every=4, pinned=frozenset({1, 77}))) == [2, 3, 5, 6]
    reader = case.open()
    assert reader.versions() == store.versions() == [0, 1, 4, 7, 8]
    assert {name.partition("/")[0] for name in case.files()} == {version_name(v) for v in (0, 1, 4, 7, 8)}
    assert [reader.open(v).read("weights.safetensors") for v in (0, 8)] == [b"weights 0", b"weights 8"]


def test_the_newest_version_always_stays(case: StoreCase) -> None:
    store = case.open()
    publish_many(store, 3)
    assert store.sweep(Retention(keep_newest=1)) == [0, 1]
    assert store.sweep(Retention(keep_newest=1)) == []
    assert store.versions() == [2]


def test_an_abandoned_write_is_no_version_and_is_swept_in_time(case: StoreCase) -> None:
    publish(case.open())
    write = case.begin_a_write()
    store = case.open()
    assert store.versions() == [0]
    assert store.sweep(Retention()) == []
    assert write in case.files()
    hasty = case.open(abandon_after_s=0.0)
    assert hasty.sweep(Retention()) == []
    assert write not in case.files()
    assert hasty.versions() == [0]
    assert hasty.open(0).read("policy.ts")


def test_quarantine_is_shared_advice(case: StoreCase) -> None:
    store = case.open()
    first, second = publish(store, b"one").digest, publish(store, b"two").digest
    other = case.open()
    other.quarantine(first, "probe: row 3 differs", by="actor-1")
    assert store.quarantined() == {first: "probe: row 3 differs"}
    other.quarantine(first, "another reason", by="actor-2")
    other.quarantine(second, "x\ud800" * 5000, by="actor-2")
    assert store.quarantined() == case.open().quarantined()
    assert store.quarantined()[first] == "probe: row 3 differs"
    assert set(store.quarantined()) == {first, second}
    assert store.versions() == [0, 1]
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.quarantine("../../outside", "no digest", by="actor-1")


def test_bad_advice_is_no_advice(case: StoreCase) -> None:
    publish(case.open())
    for name, data in (("a" * 64, b"not JSON"), ("b" * 64, b"{}"), ("c" * 64, b"1" * 10**6), ("readme", b"")):
        case.put(f"quarantine/{name}.json", data)
    assert case.open().quarantined() == {}


def test_links_pipes_and_directories_are_not_files(directory_case: StoreCase) -> None:
    publish(directory_case.open())
    file = Path(directory_case.root, version_name(0), "policy.ts")
    elsewhere = file.rename(Path(directory_case.root, "elsewhere"))
    for put_there in (lambda: file.symlink_to(elsewhere), lambda: os.mkfifo(file), file.mkdir):
        put_there()
        with pytest.raises(DigestMismatch, match=r"policy\.ts: expected a regular file"):
            directory_case.open().open(0).read("policy.ts")
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


def test_a_manifest_is_a_regular_file(directory_case: StoreCase) -> None:
    publish(directory_case.open())
    manifest = Path(directory_case.root, version_name(0), "manifest.json")
    elsewhere = manifest.rename(Path(directory_case.root, "elsewhere"))
    for put_there in (lambda: manifest.symlink_to(elsewhere), lambda: os.mkfifo(manifest)):
        put_there()
        with pytest.raises(ManifestError, match="expected a regular file"):
            directory_case.open().open(0)
        manifest.unlink()


def test_a_link_is_no_version(directory_case: StoreCase) -> None:
    publish(directory_case.open())
    Path(directory_case.root, version_name(5)).symlink_to(version_name(0))
    store = directory_case.open()
    assert store.versions() == [0]
    with pytest.raises((VersionNotFound, ManifestError)):
        store.open(5)


def test_a_store_that_is_a_file_is_unavailable(directory_case: StoreCase) -> None:
    Path(directory_case.root).parent.mkdir(parents=True)
    Path(directory_case.root).write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="could not"):
        publish(directory_case.open())


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.binary(max_size=8)),
    st.tuples(st.just("sweep"), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 5))),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.sampled_from(["reopen", "begin a write", "sweep abandoned"])),
)


@pytest.mark.parametrize("kind", CASES)
@settings(deadline=None, max_examples=40)
@given(steps=st.lists(STEPS, max_size=12))
def test_no_number_is_used_twice_and_what_is_listed_can_be_read(kind: str, steps: list[tuple]) -> None:
    with store_case(kind) as case:
        store = case.open()
        contents: dict[int, bytes] = {}
        highest = -1
        for step, *details in steps:
            match step:
                case "publish":
                    version = publish(store, details[0]).version
                    assert version > highest
                    highest, contents[version] = version, details[0]
                case "sweep":
                    swept = store.sweep(Retention(keep_newest=details[0], keep_every=details[1]))
                    assert swept == Retention(keep_newest=details[0], keep_every=details[1]).expendable(list(contents))
                    contents = {v: content for v, content in contents.items() if v not in swept}
                case "delete" if contents:
                    version = list(contents)[details[0] % len(contents)]
                    case.remove(version_name(version))
                    del contents[version]
                case "reopen":
                    store = case.open()
                case "begin a write":
                    case.begin_a_write()
                case "sweep abandoned":
                    case.open(abandon_after_s=0.0).sweep(Retention())
            assert store.versions() == sorted(contents)
            assert {v: store.open(v).read("weights.safetensors") for v in store.versions()} == contents
