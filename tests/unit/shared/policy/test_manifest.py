"""Manifests are validated when they are read; errors name the value found."""

import hashlib
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ManifestError
from shared.policy.manifest import (
    FORMAT_VERSIONS,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_VERSION_BYTES,
    FileEntry,
    Manifest,
    MethodReport,
    TrainingProgress,
    decode_manifest,
    decode_manifest_again,
    encode_manifest,
    format_of,
)
from shared.policy.nested_values import (
    ConstantNode,
    DictNode,
    NumberNode,
    RecordNode,
    SequenceNode,
    Structure,
    TensorNode,
)
from shared.policy.signature import NOT_A_POLICY, ArgumentSpec, ModuleSignature
from shared.policy.tensor_limits import MAX_TENSORS
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


def test_a_module_without_named_sizes_and_parameters_is_as_before() -> None:
    """Bytes and digest, which quarantines and signatures refer to, are those of the release before named sizes."""
    x = ArgumentSpec("x", "float32", (None, 2))
    module = ModuleSignature((x,), (x,), TensorNode(), TensorNode())
    written = encode_manifest(msgspec.structs.replace(manifest(), signature=NOT_A_POLICY, module=module))
    assert hashlib.sha256(written).hexdigest().startswith("28a86e8424ef")
    assert decode_manifest(written).digest == "bdca2d651991c37ff64df0526db262a07c3d551a40e4e98afa7adfc26633df79"


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
        msgspec.structs.replace(one, files={**one.files, "policy.ts": FileEntry(sha256="0" * 64, size_bytes=1)}),
        msgspec.structs.replace(one, programs=(*one.programs, *one.programs)),
        msgspec.structs.replace(one, weights="policy.ts"),
        msgspec.structs.replace(one, probe=msgspec.structs.replace(one.probe, atol=1.0)),
        msgspec.structs.replace(one, signature=msgspec.structs.replace(one.signature, inputs=())),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_the_digest_of_a_content_never_changes() -> None:
    """Rollouts, quarantines and caches refer to it across releases."""
    assert manifest().digest == "cb41af16bf910f0b373765695df3e72ab6e8ca807bcb0cf1c711bb7dc029a7cd"


def test_a_files_entry_is_its_size_and_sha256() -> None:
    assert describe_files({"a": b"abc"}) == {"a": FileEntry(sha256=hashlib.sha256(b"abc").hexdigest(), size_bytes=3)}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b'{"version": 1}'])
def test_malformed_json_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="not a manifest"):
        decode_manifest(data)


def test_a_manifest_is_bounded() -> None:
    with pytest.raises(ManifestError, match="at most"):
        decode_manifest(b" " * (MAX_MANIFEST_BYTES + 1))
    encoded = encode_manifest(manifest())
    assert decode_manifest(encoded + b" " * (MAX_MANIFEST_BYTES - len(encoded))) == manifest()


def test_the_smallest_and_the_largest_version_are_accepted() -> None:
    assert decode_manifest(changed(version=0)).version == 0
    empty = describe_files(sample_files(b""))
    rest = sum(entry.size_bytes for entry in empty.values())
    for surplus in (0, 1):
        largest = {**empty, "more": FileEntry(sha256="0" * 64, size_bytes=MAX_VERSION_BYTES - rest + surplus)}
        encoded = encode_manifest(sample_manifest(0, largest))
        if surplus:
            with pytest.raises(ManifestError, match="8,589,934,592 bytes, found 8,589,934,593"):
                decode_manifest(encoded)
        else:
            assert decode_manifest(encoded).files["weights.safetensors"].size_bytes == 0


def test_a_manifest_accepted_before_is_parsed_without_checks() -> None:
    encoded = encode_manifest(manifest())
    assert decode_manifest_again(encoded) == manifest()
    assert decode_manifest_again(changed(programs=[])).programs == ()


@pytest.mark.parametrize("found", [0, FORMAT_VERSIONS[-1] + 1])
@pytest.mark.parametrize("fields", [{}, {"an_unknown_field": 1}], ids=["the same fields", "another field"])
def test_another_format_says_what_to_do(found: int, fields: dict[str, object]) -> None:
    with pytest.raises(
        ManifestError, match=f"update rl-hotswap here.*: expected manifest format 1 or 2, found {found}"
    ):
        decode_manifest(changed(format_version=found, **fields))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"surprise": 1}, "unknown field"),
        ({"version": "7"}, "version"),
        ({"version": -1}, "version"),
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
    files = {**describe_files(sample_files()), name: FileEntry(sha256="0" * 64, size_bytes=1)}
    with pytest.raises(ManifestError, match="plain name"):
        decode_manifest(encode_manifest(sample_manifest(0, files)))


@pytest.mark.parametrize(
    "entry",
    [
        FileEntry(sha256="0" * 63, size_bytes=1),
        FileEntry(sha256="G" * 64, size_bytes=1),
        FileEntry(blake3="0" * 63, size_bytes=1),
        FileEntry(sha256="0" * 64, size_bytes=1, blake3="0" * 64),
        FileEntry(size_bytes=1),
    ],
    ids=["short", "not hexadecimal", "short BLAKE3", "two", "none"],
)
def test_entries_are_a_size_and_a_digest(entry: FileEntry) -> None:
    files = {**describe_files(sample_files()), "policy.ts": entry}
    with pytest.raises(ManifestError, match=r"policy\.ts: expected one SHA-256 or BLAKE3 digest"):
        decode_manifest(encode_manifest(sample_manifest(0, files)))


def test_the_oldest_format_that_suffices_is_written() -> None:
    """Readers of the last release know format 1, and it knows one digest."""
    small, large = describe_files({"a": b"a"}), {"a": FileEntry(blake3="0" * 64, size_bytes=2**22)}
    assert [format_of(files) for files in ({}, small, large, small | large)] == [1, 1, 2, 2]
    assert encode_manifest(sample_manifest(0, small)).count(b"blake3") == 0
    files = {**describe_files(sample_files()), "policy.ts": FileEntry(blake3="0" * 64, size_bytes=1)}
    older = sample_manifest(0, files)
    newer = msgspec.structs.replace(older, format_version=2)
    assert decode_manifest(encode_manifest(newer)) == newer
    with pytest.raises(ManifestError, match=r"policy\.ts: expected a SHA-256 in format 1, found a BLAKE3 digest"):
        decode_manifest(encode_manifest(older))
    mixed = describe_files(sample_files())
    assert decode_manifest(encode_manifest(msgspec.structs.replace(sample_manifest(0, mixed), format_version=2)))


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_manifest_is_refused_or_still_a_valid_one(position: int, byte: int) -> None:
    data = bytearray(encode_manifest(manifest()))
    data[position % len(data)] = byte
    try:
        found = decode_manifest(bytes(data))
    except ManifestError:
        return
    assert decode_manifest(encode_manifest(found)) == found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"created_unix_s": 0.0}, r"years 2000 to 2200, found 0\b"),
        ({"created_unix_s": -1e300}, "years 2000 to 2200"),
        ({"created_unix_s": 7289654400.0}, "years 2000 to 2200"),
        ({"training": {"train_s": -1.0}}, "train_s"),
        ({"training": {"train_s": 1e300}}, "train_s"),
        ({"training": {"env_steps": 2**63}}, "env_steps"),
        ({"version": 10**18}, "version"),
        ({"version": 2**64}, "version"),
        ({"restores": -1}, "restores"),
        ({"run_id": "r" * 10**6}, "run_id"),
        ({"probe": {"file": "probe.safetensors", "atol": 0.01, "rtol": 0.0}}, "tolerances from 0 to 0.001, found atol"),
        ({"probe": {"file": "probe.safetensors", "atol": 0.0, "rtol": 1.1e-3}}, "tolerances"),
        ({"probe": {"file": "probe.safetensors", "atol": -1e-9, "rtol": 0.0}}, "tolerances"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:20],
)
def test_times_counts_and_tolerances_are_bounded(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ManifestError, match=says) as caught:
        decode_manifest(changed(**changes))
    assert len(str(caught.value)) < 300


def test_the_last_seconds_of_2200_are_a_time() -> None:
    for created_unix_s in (946684800.0, 7289654399.0):
        assert decode_manifest(changed(created_unix_s=created_unix_s)).created_unix_s == created_unix_s


@pytest.mark.parametrize("size", [-1, 2**53 + 1, 2**63, 2**64, 10**30], ids=str)
def test_the_size_of_a_file_is_bounded(size: int) -> None:
    data = encode_manifest(manifest()).replace(b'"size_bytes": 512', b'"size_bytes": %d' % size)
    with pytest.raises(ManifestError, match="size_bytes"):
        decode_manifest(data)


def test_a_tolerance_that_is_no_number_is_refused() -> None:
    for text in (b"1e999", b"NaN", b"Infinity"):
        with pytest.raises(ManifestError, match="not a manifest"):
            decode_manifest(encode_manifest(manifest()).replace(b'"atol": 0.00001', b'"atol": ' + text))


@pytest.mark.parametrize(
    "repeat",
    [
        (b'"version": 7', b'"version": 1, "version": 7'),
        (b'"version": 7', b'"version": 7, "version": 7'),
        (b'"version": 7', b'"\\u0076ersion": 1, "version": 7'),
        (b'"policy.ts": {', b'"policy.ts": {"sha256": "' + b"0" * 64 + b'", "size_bytes": 1}, "policy.ts": {'),
        (b'"atol": 0.00001', b'"atol": 0.001, "atol": 0.00001'),
    ],
    ids=["another value", "the same value", "escaped", "a file", "a tolerance"],
)
def test_a_repeated_key_is_refused(repeat: tuple[bytes, bytes]) -> None:
    """Python takes the last of both, other readers the first: they would act with different versions."""
    data = encode_manifest(manifest())
    assert repeat[0] in data
    with pytest.raises(ManifestError, match=r"expected every key once, found .* twice"):
        decode_manifest(data.replace(*repeat))


def test_a_manifest_in_another_layout_is_read() -> None:
    """Unique keys are found in any order, with any spaces, and with escapes."""
    content = msgspec.json.decode(encode_manifest(manifest()))
    for data in (json.dumps(content, indent=8).encode(), json.dumps(dict(reversed(content.items()))).encode()):
        assert decode_manifest(data) == manifest()
        assert decode_manifest(data.replace(b'"env_id"', b'"\\u0065nv_id"')) == manifest()


def _with_inputs(inputs: list[dict[str, object]]) -> bytes:
    content = msgspec.json.decode(encode_manifest(manifest()))
    content["signature"]["inputs"] = inputs
    return msgspec.json.encode(content)


@pytest.mark.parametrize("count", [MAX_TENSORS + 1, 80_000, 200_000])
def test_the_number_of_tensors_is_bounded(count: int) -> None:
    with pytest.raises(ManifestError, match=r"<= 10000 - at `\$.signature.inputs`|at most 4194304 bytes"):
        decode_manifest(_with_inputs([{"role": "state", "dtype": "float32", "shape": []}] * count))


def test_the_number_of_files_and_programs_is_bounded() -> None:
    files = {f"f{i}": FileEntry(sha256="0" * 64, size_bytes=1) for i in range(MAX_FILES + 1)}
    with pytest.raises(ManifestError, match="files"):
        decode_manifest(encode_manifest(sample_manifest(0, files)))
    programs = manifest().programs * (MAX_FILES + 1)
    with pytest.raises(ManifestError, match="programs"):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest(), programs=programs)))


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({"dtype": "float32", "shape": [-1]}, "at least 0"),
        ({"dtype": "float32", "shape": [2**63]}, "at most"),
        ({"dtype": "float32", "shape": [10**300]}, "at most"),
        ({"dtype": "float32", "shape": [2**20, 2**20]}, "a tensor of at most"),
        ({"dtype": "float32", "shape": [0, 2**33, 2**33]}, "a tensor of at most"),
        ({"dtype": "float32", "shape": [1] * 33}, "at most 32 dimensions"),
        ({"dtype": "float32", "shape": [10**18] * 100_000}, "at most 32 dimensions"),
        ({"dtype": "object", "shape": []}, "expected a dtype"),
        ({"dtype": "f4,(1000000000,)f4", "shape": []}, "expected a dtype"),
        ({"dtype": "S9999999999", "shape": []}, "expected a dtype"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:60],
)
def test_a_tensor_that_cannot_be_is_refused(tensor: dict[str, object], says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        decode_manifest(_with_inputs([{"role": "observation", **tensor}]))


@pytest.mark.parametrize(
    "action",
    [
        {"kind": "discrete", "cardinalities": [], "start": []},
        {"kind": "discrete", "cardinalities": [0], "start": [0]},
        {"kind": "discrete", "cardinalities": [2**62], "start": [0]},
        {"kind": "discrete", "cardinalities": [2], "start": [10**300]},
        {"kind": "multi_discrete", "shape": [3], "cardinalities": [2, 2], "start": [0, 0, 0]},
        {"kind": "box", "dtype": "float32", "shape": [2], "low": [0.0], "high": [1.0, 1.0]},
        {"kind": "box", "dtype": "float128", "shape": [2], "low": [], "high": []},
    ],
    ids=str,
)
def test_a_space_that_cannot_be_is_refused(action: dict[str, object]) -> None:
    content = msgspec.json.decode(encode_manifest(manifest()))
    content["signature"]["action"] = {"dtype": "int64", "shape": [], **action}
    with pytest.raises(ManifestError, match=r"space|bounds"):
        decode_manifest(msgspec.json.encode(content))


def _nested(depth: int) -> Structure:
    structure: Structure = TensorNode()
    for _ in range(depth):
        structure = SequenceNode("tuple", (structure,))
    return structure


@pytest.mark.parametrize(
    ("structure", "says"),
    [
        (_nested(64), "at most 64 levels"),
        (SequenceNode("list", (TensorNode(),) * 20_000), "at most 10,000 nodes"),
        (DictNode(("a", "a"), (TensorNode(), TensorNode())), "different keys"),
        (DictNode(("a", "b"), (TensorNode(),)), "keys"),
        (RecordNode("named_tuple", "m:C", ("class",), (TensorNode(),)), "names of fields"),
        (RecordNode("named_tuple", "m:C", ("_a",), (TensorNode(),)), "names of fields"),
        (RecordNode("dataclass", "m:C", ("__class__",), (TensorNode(),)), "names of fields"),
        (RecordNode("dataclass", "m:C", ("a",), ()), "fields"),
        (ConstantNode("int", "9" * 5000), "the text of a constant"),
        (ConstantNode("float", "nothing"), "the text of a constant"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_the_structure_of_a_module_is_bounded(structure: Structure, says: str) -> None:
    module = ModuleSignature((), (), ConstantNode("none"), structure)
    with pytest.raises(ManifestError, match=says):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest(), module=module)))


@pytest.mark.parametrize("depth", [100, 5000, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    """Deeper than any encoder goes, so it is text."""
    module = ModuleSignature((), (), ConstantNode("none"), TensorNode())
    data = encode_manifest(msgspec.structs.replace(manifest(), module=module))
    node = b'{"is": "sequence", "kind": "tuple", "items": ['
    deep = re.sub(rb'\{\s*"is": "tensor"\s*\}', node * depth + b'{"is": "tensor"}' + b"]}" * depth, data)
    assert len(deep) > len(data)
    with pytest.raises(ManifestError, match=r"levels|not a manifest|at most"):
        decode_manifest(deep)


def _of_module(module: ModuleSignature) -> Manifest:
    return msgspec.structs.replace(manifest(), signature=NOT_A_POLICY, module=module)


def test_63_levels_are_read() -> None:
    whole = _of_module(ModuleSignature((), (ArgumentSpec("y", "float32", ()),), ConstantNode("none"), _nested(63)))
    assert decode_manifest(encode_manifest(whole)) == whole


def test_a_policy_that_says_it_is_a_module_too_is_refused() -> None:
    """Modules may mix rows: the sandbox would not look for that, and an agent would act with it."""
    module = ModuleSignature((), (), ConstantNode("none"), ConstantNode("none"))
    with pytest.raises(ManifestError, match="publish a policy or a module: the manifest has the signatures of both"):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest(), module=module)))


_X, _ROW = ArgumentSpec("x", "float32", (None,)), ArgumentSpec("n", "int64", (3,))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (ModuleSignature((_X,), (), ConstantNode("none"), ConstantNode("none")), "found 1 tensors, 0 places"),
        (ModuleSignature((), (_X,), ConstantNode("none"), _nested(1)), None),
        (ModuleSignature((), (_X, _X), ConstantNode("none"), _nested(1)), "found 2 tensors, 1 places"),
        (ModuleSignature((), (_ROW,), ConstantNode("none"), NumberNode("int")), "n: expected one int, found int64"),
        (ModuleSignature((), (_X,), ConstantNode("none"), NumberNode("float")), "x: expected one float"),
        (
            ModuleSignature((), (ArgumentSpec("n", "float32", ()),), ConstantNode("none"), NumberNode("int")),
            "n: expected one int, found float32",
        ),
        (
            ModuleSignature((ArgumentSpec("n", "int64", ()),), (), NumberNode("int"), ConstantNode("none")),
            "numbers are constants there",
        ),
    ],
    ids=str,
)
def test_tensors_of_a_module_fit_their_places(module: ModuleSignature, says: str | None) -> None:
    """Otherwise a call would fail with an error of Python, such as that an array is no number."""
    data = encode_manifest(_of_module(module))
    if says is None:
        assert decode_manifest(data).module == module
        return
    with pytest.raises(ManifestError, match=says):
        decode_manifest(data)
