"""The contract of signatures: every store keeps them, and a reader with a key verifies them."""

import msgspec
import pytest

from shared.errors import ManifestError, NotAuthentic, VersionNotFound
from shared.policy.manifest import FileEntry, Manifest, decode_manifest, encode_manifest
from shared.policy.signing import SIGNATURE_BYTES, SigningKey
from shared.store.authenticity import Authenticity
from shared.store.policy_store import PolicyStore, Retention, version_name
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.store_cases import StoreCase, store_case

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()
STRICT = Authenticity([KEY.public])


def publish(store: PolicyStore, content: bytes = b"weights", key: SigningKey | None = KEY) -> Manifest:
    return store.publish(sample_files(content), sample_manifest, sign=None if key is None else key.sign)


def refused(store: PolicyStore, version: int, authenticity: Authenticity = STRICT) -> str:
    """Return the error of a reader with the key that opens ``version``."""
    with pytest.raises(NotAuthentic) as refusal:
        authenticity.open(store, version)
    return str(refusal.value)


def test_a_reader_with_the_key_gets_signed_versions(case: StoreCase) -> None:
    with pytest.raises(ManifestError, match=r"plain name .* found 'manifest\.sig'"):
        case.open().publish({**sample_files(), "manifest.sig": b"\0" * 64}, sample_manifest)
    assert case.files() == set()
    published = publish(case.open())
    version = STRICT.open(case.open(), 0)
    assert version.manifest == published
    assert STRICT.signer(version) == KEY.public
    assert "manifest.sig" not in published.files
    assert case.get("v000000/manifest.sig") == KEY.sign(case.get("v000000/manifest.json"))


def test_a_reader_without_a_key_accepts_every_version(case: StoreCase) -> None:
    store = case.open()
    publish(store, b"signed")
    publish(store, b"not signed", None)
    publish(store, b"by another key", OTHER_KEY)
    contents = [Authenticity().open(store, version).read("weights.safetensors") for version in store.versions()]
    assert contents == [b"signed", b"not signed", b"by another key"]


def test_keys_can_change_while_readers_accept_both(case: StoreCase) -> None:
    store = case.open()
    publish(store)
    publish(store, key=OTHER_KEY)
    both = Authenticity([KEY.public, OTHER_KEY.public])
    assert [both.signer(both.open(store, version)) for version in (0, 1)] == [KEY.public, OTHER_KEY.public]
    assert f"no signature by {KEY.public.short}" in refused(store, 1)
    publish(store, key=SigningKey.generate())
    assert f"no signature by {KEY.public.short} or {OTHER_KEY.public.short}: " in refused(store, 2, both)


def test_an_unsigned_version_is_refused(case: StoreCase) -> None:
    store = case.open()
    publish(store, key=None)
    assert store.open(0).read_signature() is None
    assert "v000000/manifest.sig: not there, so the version is not signed" in refused(store, 0)
    publish(store)
    case.remove("v000001/manifest.sig")
    assert "the version is not signed" in refused(store, 1)


@pytest.mark.parametrize("size", [0, 1, SIGNATURE_BYTES - 1, SIGNATURE_BYTES + 1, 2**20])
def test_a_signature_has_one_size(case: StoreCase, size: int) -> None:
    store = case.open()
    publish(store)
    case.put("v000000/manifest.sig", b"\0" * size)
    found = "more" if size > SIGNATURE_BYTES else size
    assert f"expected a signature of 64 bytes, found {found}" in refused(store, 0)


def test_another_signature_is_refused(case: StoreCase) -> None:
    store = case.open()
    publish(store)
    publish(store, b"another version's")
    case.put("v000000/manifest.sig", case.get("v000001/manifest.sig"))
    assert "it was made with another key, or manifest.json was changed since" in refused(store, 0)


def test_no_byte_of_a_manifest_can_be_changed(case: StoreCase) -> None:
    store = case.open()
    publish(store)
    good = case.get("v000000/manifest.json")
    for changed in (good.replace(b'"CartPole-v1"', b'"CartPole-v0"'), good + b"\n", good.replace(b'"run"', b'"ran"')):
        assert changed != good
        case.put("v000000/manifest.json", changed)
        assert "manifest.json was changed since" in refused(store, 0)
    case.put("v000000/manifest.json", good)
    STRICT.open(store, 0)


def test_an_old_version_cannot_be_replayed_under_a_new_number(case: StoreCase) -> None:
    store = case.open()
    published = publish(store)
    for name in (*published.files, "manifest.sig", "manifest.json"):
        case.put(f"v000009/{name}", case.get(f"v000000/{name}"))
    with pytest.raises(ManifestError, match="expected a manifest of version 9, found one of 0"):
        STRICT.open(store, 9)
    renumbered = msgspec.structs.replace(decode_manifest(case.get("v000000/manifest.json")), version=9)
    case.put("v000009/manifest.json", encode_manifest(renumbered))
    assert "manifest.json was changed since" in refused(store, 9)


def test_another_run_is_refused_after_the_first_version(case: StoreCase) -> None:
    store = case.open()
    first = publish(store)

    def of_another_run(version: int, entries: dict[str, FileEntry]) -> Manifest:
        return msgspec.structs.replace(sample_manifest(version, entries), run_id="other")

    store.publish(sample_files(), of_another_run, sign=KEY.sign)
    assert "is signed for run 'other', and this is run 'mine'" in refused(store, 1, Authenticity([KEY.public], "mine"))
    starts_here = Authenticity([KEY.public])
    starts_here.open(store, 1)  # versions of either run pass before the first is loaded
    starts_here.pin(first)
    starts_here.open(store, 0)
    assert "is signed for run 'other', and this is run 'run'" in refused(store, 1, starts_here)


def test_a_publisher_that_loses_the_race_signs_its_final_number(case: StoreCase) -> None:
    slow, fast = case.open(), case.open()
    asked = []

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        asked.append(version)
        if len(asked) <= 2:
            publish(fast, b"fast")
        return sample_manifest(version, entries)

    assert slow.publish(sample_files(b"slow"), describe, sign=KEY.sign).version == 2
    reader = case.open()
    contents = [STRICT.open(reader, version).read("weights.safetensors") for version in (0, 1, 2)]
    assert contents == [b"fast", b"fast", b"slow"]


def test_a_signature_is_swept_with_its_version(case: StoreCase) -> None:
    store = case.open()
    publish(store)
    opened = store.open(0)
    publish(store)
    assert store.sweep(Retention(keep_newest=1)) == [0]
    with pytest.raises(VersionNotFound):
        opened.read_signature()
    assert not any(name.startswith(version_name(0)) for name in case.files())


def test_a_link_is_not_a_signature() -> None:
    with store_case("local") as case:
        store = case.open()
        publish(store)
        version = store.watch_path / version_name(0)  # type: ignore[operator]
        (version / "manifest.sig").rename(version.parent / "elsewhere")
        (version / "manifest.sig").symlink_to(version.parent / "elsewhere")
        assert "manifest.sig: expected a regular file, found a symbolic link" in refused(store, 0)
