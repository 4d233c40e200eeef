"""Manifests and weights whose numbers no publisher writes: huge, negative, repeated, or too many.

Each is a corruption like those of ``corrupted_versions``, with the digests that the corrupted version needs.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.fault_injection.corrupted_versions import Corruption, edit_manifest
from shared.policy.manifest import MANIFEST_NAME, WEIGHTS_FILE

_LENGTH_BYTES = 8
_NODE = '{"is": "sequence", "kind": "tuple", "items": ['


def _set(*path: str | int, to: object) -> Corruption:
    """Replace one value of the manifest."""

    def edit(manifest: dict[str, Any]) -> None:
        holder: Any = manifest
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = to

    return lambda directory: edit_manifest(directory, edit)


def _text(change: Callable[[str], str]) -> Corruption:
    """Change the text of the manifest."""

    def corrupt(directory: Path) -> None:
        path = directory / MANIFEST_NAME
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before

    return corrupt


def _header(change: Callable[[str], str]) -> Corruption:
    """Change the header of the weights, and declare the digest of the file."""

    def corrupt(directory: Path) -> None:
        path = directory / WEIGHTS_FILE
        before = path.read_bytes()
        end = _LENGTH_BYTES + int.from_bytes(before[:_LENGTH_BYTES], "little")
        header = change(before[_LENGTH_BYTES:end].decode()).encode()
        data = len(header).to_bytes(_LENGTH_BYTES, "little") + header + before[end:]
        path.write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        edit_manifest(directory, lambda manifest: manifest["files"].update({WEIGHTS_FILE: entry}))

    return corrupt


def _nested(text: str) -> str:
    module = f'{{"inputs": [], "outputs": [], "arguments": {{"is": "tensor"}}, "result": {_NODE * 200}{"]}" * 200}}}'
    return f'{text.rstrip().removesuffix("}")}, "module": {module}}}'


def _tensors(how_many: int) -> list[dict[str, object]]:
    return [{"role": "state", "dtype": "float32", "shape": [], "path": []}] * how_many


def _more_tensors(header: str) -> str:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({**{f"x{i}": empty for i in range(20_000)}, **json.loads(header)}, separators=(",", ":"))


def _far_number(directory: Path) -> None:
    directory.rename(directory.parent / f"v{9 * 10**17 + secrets.randbelow(10**17)}")


IMPOSSIBLE: dict[str, tuple[Corruption, str]] = {
    "a tolerance of one": (_set("probe", "atol", to=1.0), "expected probe tolerances from 0 to 0.001"),
    "a relative tolerance of one": (_set("probe", "rtol", to=1.0), "expected probe tolerances from 0 to 0.001"),
    "a negative tolerance": (_set("probe", "rtol", to=-1e-9), "expected probe tolerances from 0 to 0.001"),
    "a version from 1970": (_set("created_unix_s", to=0.0), "in the years 2000 to 2200"),
    "a version from 9999": (_set("created_unix_s", to=253402300799.0), "in the years 2000 to 2200"),
    "a time beyond all calendars": (_set("created_unix_s", to=1e300), "in the years 2000 to 2200"),
    "a training of 3,000 years": (_set("training", "train_s", to=1e11), "expected train_s"),
    "a size of 2**63 bytes": (_set("files", WEIGHTS_FILE, "size_bytes", to=2**63), "size_bytes"),
    "a size of 2**64 bytes": (_set("files", WEIGHTS_FILE, "size_bytes", to=2**64 - 1), "size_bytes"),
    "a negative size": (_set("files", WEIGHTS_FILE, "size_bytes", to=-1), "size_bytes"),
    "a shape of 2**62": (_set("signature", "inputs", 0, "shape", to=[2**62]), "expected sizes of at most"),
    "a negative shape": (_set("signature", "inputs", 0, "shape", to=[-4]), "found a negative one"),
    "a shape whose product overflows": (
        _set("signature", "inputs", 0, "shape", to=[0, 2**32, 2**32]),
        "expected a tensor of at most",
    ),
    "a dtype that is a program": (_set("signature", "inputs", 0, "dtype", to="f4,(9,9)f4"), "expected a dtype"),
    "20,000 tensors": (_set("signature", "inputs", to=_tensors(20_000)), "of length <= 10000"),
    "200,000 tensors": (_set("signature", "inputs", to=_tensors(200_000)), "a manifest of at most"),
    "a structure of 200 levels": (_text(_nested), "at most 64 levels"),
    "a repeated key": (_text(lambda text: text.replace('"version":', '"version": 9, "version":', 1)), "every key once"),
    "a repeated file": (
        _text(
            lambda text: text.replace(
                '"files": {', f'"files": {{"{WEIGHTS_FILE}": {{"sha256": "{"0" * 64}", "size_bytes": 1}},', 1
            )
        ),
        "every key once",
    ),
    "weights with a repeated key": (
        _header(lambda text: text.replace('"dtype":', '"dtype":"F64","dtype":', 1)),
        "every key of the header once",
    ),
    "weights of 20,000 tensors": (_header(_more_tensors), "at most 10,000 tensors"),
    "weights of a shape of 2**63": (
        _header(lambda text: text.replace('"shape":[', '"shape":[9223372036854775808,', 1)),
        "expected sizes of at most",
    ),
    "weights with an offset of 2**63": (
        _header(lambda text: text.replace('"data_offsets":[', '"data_offsets":[9223372036854775808,', 1)),
        "not a safetensors header",
    ),
}
"""Corruptions by name, each with a part of the reason for the refusal."""

UNSEEN: dict[str, Corruption] = {"a number that no run can have reached": _far_number}
"""Corruptions of which actors take no notice."""
