"""Manifests are validated when they are read; errors name the value found."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ManifestError
from shared.policy.manifest import (
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    MethodReport,
    TrainingProgress,
    decode_manifest,
    encode_manifest,
)
from shared.store.version_files import describe_files
from tests.support.sample_versions import sample_files, sample_manifest


def manifest(version: int = 7) -> Manifest:
    return sample_manifest(version, describe_files(sample_files()))


def changed(**changes: object) -> bytes:
    """The manifest's JSON with some top-level fields replaced."""
    return msgspec.json.encode({**msgspec.json.decode(encode_manifest(manifest())), **changes})


def test_a_manifest_comes_back_as_it_was() -> None:
    whole = msgspec.structs.replace(
        manifest(),
        export=(
            MethodReport("script", False, error="could not get source code"),
            MethodReport("trace", True, None, 1e-7),
        ),
        training=TrainingProgress(update=3, env_steps=4096, train_s=1.5, mean_return=200.0),
    )
    assert decode_manifest(encode_manifest(whole)) == whole


def test_encoding_is_deterministic_and_meant_for_people() -> None:
    encoded = encode_manifest(manifest())
    assert encoded == encode_manifest(decode_manifest(encoded))
    assert b'\n "version": 7' in encoded


def test_the_program_of_a_kind() -> None:
    found = manifest().program("torchscript")
    assert found is not None
    assert found.file == "policy.ts"
    assert manifest().program("onnx") is None


def test_digest_covers_the_content_and_not_number_or_time() -> None:
    one = manifest()
    same = {"version": 9, "created_unix_s": 5.0, "run_id": "another", "training": TrainingProgress(update=9)}
    assert msgspec.structs.replace(one, **same).digest == one.digest
    others = [
        msgspec.structs.replace(one, files={**one.files, "policy.ts": FileEntry("0" * 64, 1)}),
        msgspec.structs.replace(one, programs=(*one.programs, *one.programs)),
        msgspec.structs.replace(one, weights="policy.ts"),
        msgspec.structs.replace(one, probe=msgspec.structs.replace(one.probe, atol=1.0)),
        msgspec.structs.replace(one, signature=msgspec.structs.replace(one.signature, inputs=())),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_a_files_entry_is_its_size_and_sha256() -> None:
    assert describe_files({"a": b"abc"}) == {"a": FileEntry(hashlib.sha256(b"abc").hexdigest(), 3)}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b'{"version": 1}'])
def test_malformed_json_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="not a manifest"):
        decode_manifest(data)


def test_a_manifest_is_bounded() -> None:
    with pytest.raises(ManifestError, match="at most"):
        decode_manifest(b" " * (MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize("found", [0, FORMAT_VERSION + 1])
def test_another_format_says_what_to_do(found: int) -> None:
    with pytest.raises(
        ManifestError, match=f"update rl-hotswap here.*: expected manifest format {FORMAT_VERSION}, found {found}"
    ):
        decode_manifest(changed(format_version=found, an_unknown_field=1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"surprise": 1}, "unknown field"),
        ({"version": "7"}, "version"),
        ({"version": -1}, "at least 0"),
        ({"programs": []}, "at least one program"),
        ({"programs": [{"kind": "pickle", "file": "policy.ts", "program_digest": ""}]}, "pickle"),
        ({"weights": "elsewhere.safetensors"}, "elsewhere.safetensors"),
        ({"probe": {"file": "none", "atol": 0.0, "rtol": 0.0}}, "none"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        decode_manifest(changed(**changes))


@pytest.mark.parametrize(
    "name", ["../v000001/policy.ts", "/etc/passwd", "a/b", "a\\b", ".", "..", "", ".hidden", "a\0b", "a\n", "x" * 129]
)
def test_file_names_never_lead_out_of_the_directory(name: str) -> None:
    files = {**describe_files(sample_files()), name: FileEntry("0" * 64, 1)}
    with pytest.raises(ManifestError, match="plain name"):
        decode_manifest(encode_manifest(sample_manifest(0, files)))


@pytest.mark.parametrize("entry", [FileEntry("0" * 63, 1), FileEntry("G" * 64, 1), FileEntry("0" * 64, -1)])
def test_entries_are_a_size_and_a_digest(entry: FileEntry) -> None:
    files = {**describe_files(sample_files()), "policy.ts": entry}
    with pytest.raises(ManifestError, match=r"policy\.ts: expected a SHA-256"):
        decode_manifest(encode_manifest(sample_manifest(0, files)))


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_manifest_is_refused_or_still_a_valid_one(position: int, byte: int) -> None:
    data = bytearray(encode_manifest(manifest()))
    data[position % len(data)] = byte
    try:
        found = decode_manifest(bytes(data))
    except ManifestError:
        return
    assert decode_manifest(encode_manifest(found)) == found
