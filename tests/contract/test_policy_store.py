"""The contract of policy stores: publishing, listing, sweeping, quarantine. Reading is in test_version_files.py."""

from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ManifestError, StoreError, StoreUnavailable, VersionNotFound
from shared.policy.manifest import FileEntry, Manifest, decode_manifest
from shared.store import local_policy_store, remote_policy_store
from shared.store.policy_store import Retention, version_name
from shared.store.store_notes import QuarantineAdvice
from tests.support.captured_logs import CapturedLogs
from tests.support.sample_versions import publish_sample, publish_samples, sample_files, sample_manifest
from tests.support.store_cases import CASES, DIRECTORY_CASES, StoreCase, store_case

FAR = 999_999_999_999_999_999


def test_a_store_that_does_not_exist_is_empty(case: StoreCase) -> None:
    store = case.open()
    assert (store.versions(), store.newest(), store.sweep(Retention()), store.quarantined()) == ([], None, [], {})
    with pytest.raises(VersionNotFound, match=version_name(0)):
        store.open(0)
    case.put(f"{version_name(3)}/policy.ts", b"program")  # without a manifest
    with pytest.raises(VersionNotFound):
        case.open().open(3)


def test_readers_get_what_is_published(case: StoreCase) -> None:
    published = publish_sample(case.open(), b"these")
    reader = case.open()
    assert reader.versions() == [0]
    assert reader.newest() == 0
    version = reader.open(0)
    assert version.manifest == published
    assert decode_manifest(version.manifest_bytes) == published
    assert version_name(0) in version.location
    assert {name: version.read(name) for name in published.files} == sample_files(b"these")
    assert case.root.lstrip("/") in str(reader)
    for number, content in enumerate((b"", b"x"), start=1):
        publish_sample(reader, content)
        assert case.open().open(number).read("weights.safetensors") == content


def test_a_version_can_be_read_before_it_is_synced(case: StoreCase) -> None:
    store = case.open()
    version = store.publish(sample_files(), sample_manifest, durable=False).version
    assert case.open().open(version).read("policy.ts") == sample_files()["policy.ts"]
    store.make_durable(version)
    assert case.open().open(version).read("policy.ts") == sample_files()["policy.ts"]


def test_one_mark_is_left_of_several_publications(case: StoreCase) -> None:
    publish_samples(case.open(), 3)
    publish_sample(case.open())
    assert case.marks() == {".highest-000003"}


def test_a_store_object_sees_versions_of_others(case: StoreCase) -> None:
    reader, publisher = case.open(), case.open()
    for version in range(3):
        publish_sample(publisher)
        assert reader.newest() == version
    assert reader.versions() == [0, 1, 2]


@pytest.mark.parametrize(("deleted", "newest"), [([2], 1), ([0, 1, 2], None)])
def test_no_number_is_used_again_when_directories_are_deleted(
    case: StoreCase, deleted: list[int], newest: int | None
) -> None:
    publish_samples(case.open(), 3)
    for version in deleted:
        case.remove(version_name(version))
    assert case.open().newest() == newest
    assert publish_sample(case.open()).version == 3


def test_a_publisher_that_loses_the_race_takes_the_next_number(case: StoreCase) -> None:
    slow, fast = case.open(), case.open()
    asked = []

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        asked.append(version)
        if len(asked) <= 2:
            publish_sample(fast, b"fast")
        return sample_manifest(version, entries)

    assert slow.publish(sample_files(b"slow"), describe).version == 2
    assert asked[0] == 0
    assert asked[-1] == 2
    reader = case.open()
    assert reader.versions() == [0, 1, 2]
    assert [reader.open(v).read("weights.safetensors") for v in (0, 1, 2)] == [b"fast", b"fast", b"slow"]
    assert publish_sample(fast).version == 3


def test_a_number_is_not_used_after_others_published_higher_ones(case: StoreCase) -> None:
    """Mark and directory of the number are removed by then; only the higher mark is left."""
    slow, fast = case.open(), case.open()
    asked = []

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        asked.append(version)
        if len(asked) == 1:
            publish_samples(fast, 3)
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


def test_a_manifest_of_other_files_or_an_error_of_the_caller_is_not_published(case: StoreCase) -> None:
    store = case.open()
    with pytest.raises(ManifestError, match="expected a manifest of version 0"):
        store.publish(sample_files(), lambda version, entries: sample_manifest(version + 1, entries))
    with pytest.raises(ManifestError, match="expected a manifest of version 0"):
        store.publish(sample_files(), lambda version, entries: sample_manifest(version, {}))
    with pytest.raises(KeyError, match="the caller's"):
        store.publish(sample_files(), Mock(side_effect=KeyError("the caller's")))
    assert case.files() == set()
    assert publish_sample(store).version == 0


def test_other_names_in_the_store_are_not_versions(case: StoreCase) -> None:
    publish_sample(case.open())
    names = ["v42", "v0000042", "v-00001", "vabcdef", "V000042", "v000042.old", "v00004٢", "latest"]
    for name in (*names, "v" + "9" * 30):
        case.put(f"{name}/manifest.json", b"{}")
    case.put("v000099", b"a file")
    store = case.open()
    assert store.versions() == [0]
    assert store.sweep(Retention(keep_newest=1)) == []


@pytest.mark.parametrize("name", [f"v{FAR}/manifest.json", f".highest-{FAR}"], ids=["directory", "mark"])
@pytest.mark.parametrize("before", [0, 2], ids=["before the first version", "later"])
def test_a_number_that_no_publisher_can_have_reached_changes_nothing(
    case: StoreCase, captured_logs: CapturedLogs, name: str, before: int
) -> None:
    """One such directory would silence the store for ever: every later number would need 19 digits."""
    publish_samples(case.open(), before)
    if name.startswith(".") and not before:
        pytest.skip("in a store without any other number, a mark is the only evidence")
    case.put(name, b"{}")
    if case.kind == "local" and before:
        assert case.open().versions() == list(range(before))
    store = case.open()
    assert publish_sample(store).version == before
    assert store.versions() == list(range(before + 1))
    assert store.newest() == before
    publish_sample(case.open())
    assert store.sweep(Retention(keep_newest=1)) == list(range(before + 1)), "retention counts from real versions"
    assert f"numbers={FAR} " in captured_logs.messages("WARNING")[0]
    assert len([line for line in captured_logs.messages("WARNING") if f"store={store} " in line]) <= 3


def test_a_store_that_has_long_been_used_is_read_whole(case: StoreCase) -> None:
    """A version is kept for ever, and a million numbers later there are others."""
    publish_samples(case.open(), 1)
    case.remove(".highest-000000")
    case.put(".highest-5000000", b"")
    store = case.open()
    assert publish_sample(store).version == 5_000_001
    assert case.open().versions() == [0, 5_000_001]


def test_a_version_swept_after_it_was_opened_is_not_found(case: StoreCase) -> None:
    store = case.open()
    publish_samples(store, 2)
    version = case.open().open(0)
    assert store.sweep(Retention(keep_newest=1)) == [0]
    with pytest.raises(VersionNotFound, match=version_name(0)):
        version.read("policy.ts")
    with pytest.raises(VersionNotFound):
        case.open().open(0)


def test_sweeping_keeps_the_newest_the_milestones_and_the_pinned(case: StoreCase) -> None:
    store = case.open()
    publish_samples(store, 9)
    assert store.sweep(Retention(keep_newest=2, keep_every=4, pinned=frozenset({1, 77}))) == [2, 3, 5, 6]
    reader = case.open()
    assert reader.versions() == store.versions() == [0, 1, 4, 7, 8]
    assert {name.partition("/")[0] for name in case.files()} == {version_name(v) for v in (0, 1, 4, 7, 8)}
    assert [reader.open(v).read("weights.safetensors") for v in (0, 8)] == [b"weights 0", b"weights 8"]
    assert store.sweep(Retention(keep_newest=1)) == [0, 1, 4, 7]
    assert store.sweep(Retention(keep_newest=1)) == []
    assert store.versions() == [8]


def test_an_abandoned_write_is_not_a_version_and_is_swept(case: StoreCase) -> None:
    publish_sample(case.open())
    write = case.leave_unfinished_write()
    store = case.open()
    assert store.versions() == [0]
    assert store.sweep(Retention()) == []
    assert write in case.files()
    impatient = case.open(abandon_after_s=0.0)
    assert impatient.sweep(Retention()) == []
    assert write not in case.files()
    assert impatient.versions() == [0]
    assert impatient.open(0).read("policy.ts")


def test_quarantine_is_shared_advice(case: StoreCase) -> None:
    store = case.open()
    first, second = publish_sample(store, b"one").digest, publish_sample(store, b"two").digest
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
    case.put(f"quarantine/{first}.json", b"changed")
    assert store.quarantined()[first] == "probe: row 3 differs", "advice never changes, so it is read once"
    store.quarantine("3" * 64, "r" * 2001, by="b" * 201)
    advice = msgspec.json.decode(case.get(f"quarantine/{'3' * 64}.json"))
    assert (advice["reason"], advice["by"]) == ("r" * 2000, "b" * 200)


def test_invalid_advice_is_ignored(case: StoreCase) -> None:
    publish_sample(case.open())
    of_another = msgspec.json.encode(QuarantineAdvice("e" * 64, "reason", "actor-1", 0.0))
    invalid = {"a": b"not JSON", "b": b"{}", "c": b"1" * 10**6, "d": of_another, "f": b"\xff"}
    named = msgspec.json.encode(QuarantineAdvice("no-digest", "reason", "actor-1", 0.0))
    for name, data in (*((digit * 64, data) for digit, data in invalid.items()), ("no-digest", named), ("readme", b"")):
        case.put(f"quarantine/{name}.json", data)
    assert case.open().quarantined() == {}


@pytest.mark.parametrize("case", DIRECTORY_CASES, indirect=True)
def test_a_store_that_is_a_file_is_unavailable(case: StoreCase) -> None:
    Path(case.root).parent.mkdir(parents=True)
    Path(case.root).write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="could not"):
        publish_sample(case.open())


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.binary(max_size=8)),
    st.tuples(st.just("sweep"), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 5))),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.sampled_from(["reopen", "leave write", "sweep abandoned"])),
)


@pytest.mark.parametrize("kind", CASES)
@settings(deadline=None, max_examples=40)
@given(steps=st.lists(STEPS, max_size=12))
def test_numbers_are_unique_and_listed_versions_can_be_read(kind: str, steps: list[tuple]) -> None:
    with store_case(kind) as case:
        store = case.open()
        contents: dict[int, bytes] = {}
        highest = -1
        for step, *details in steps:
            match step:
                case "publish":
                    version = publish_sample(store, details[0]).version
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
                case "leave write":
                    case.leave_unfinished_write()
                case "sweep abandoned":
                    case.open(abandon_after_s=0.0).sweep(Retention())
            assert store.versions() == sorted(contents)
            assert {v: store.open(v).read("weights.safetensors") for v in store.versions()} == contents


def test_the_last_number_ends_a_store(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local_policy_store, remote_policy_store):
        monkeypatch.setattr(module, "MAX_NUMBER", 1)
    publish_samples(case.open(), 2)
    with pytest.raises(StoreError):
        publish_sample(case.open())
    assert case.open().versions() == [0, 1]
