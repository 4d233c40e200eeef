"""Corruptions of a valid policy version, whose directory no reader sees yet, after which it must not act.

Where a check would otherwise fail earlier, the manifest is adapted to the corrupted file.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shared.policy.manifest import MANIFEST_NAME, ONNX_FILE, PROBE_FILE, SIGNATURE_NAME, TORCHSCRIPT_FILE, WEIGHTS_FILE
from shared.policy.signing import SigningKey
from shared.policy.weights import decode_weights, encode_weights

Corruption = Callable[[Path], None]

TEN_GB = 10 * 10**9


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest's JSON, and nothing else of the version."""
    path = directory / MANIFEST_NAME
    content = msgspec.json.decode(path.read_bytes())
    edit(content)
    path.write_bytes(msgspec.json.encode(content))


def sign_manifest(directory: Path, key: SigningKey) -> None:
    """Sign the manifest, if any, so that the version is refused for its own flaw and not for its signature."""
    manifest = directory / MANIFEST_NAME
    if manifest.exists():
        (directory / SIGNATURE_NAME).write_bytes(key.sign(manifest.read_bytes()))


def _manifest(edit: Callable[[dict[str, Any]], None]) -> Corruption:
    return lambda directory: edit_manifest(directory, edit)


def _replace(name: str, make: Callable[[Path], object] = lambda _: None) -> Corruption:
    def corrupt(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return corrupt


def flip(path: Path, at: float) -> None:
    """Flip one bit of the file, in the byte at the fraction ``at`` of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _unknown_programs(directory: Path) -> None:
    """Flip a bit in every program, and declare unknown program digests, so that actors read the programs."""
    for name in (TORCHSCRIPT_FILE, ONNX_FILE):
        if (directory / name).exists():
            flip(directory / name, 0.5)

    def declare(manifest: dict[str, Any]) -> None:
        for program in manifest["programs"]:
            program["program_digest"] = secrets.token_hex(32)

    edit_manifest(directory, declare)


def _ten_gigabytes(directory: Path) -> None:
    os.truncate(directory / WEIGHTS_FILE, TEN_GB)
    edit_manifest(directory, lambda manifest: manifest["files"][WEIGHTS_FILE].update(size_bytes=TEN_GB))


def _path_outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../../weights.safetensors"] = manifest["files"].pop(WEIGHTS_FILE)
    manifest["weights"] = "../../weights.safetensors"


def _rewrite(
    file: str,
    array: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array,
    rename: Callable[[str], str] = str,
) -> Corruption:
    """Change the tensors in a file, and declare its new digest in the manifest."""

    def corrupt(directory: Path) -> None:
        before = decode_weights((directory / file).read_bytes())
        data = encode_weights({rename(name): array(name, old.copy()) for name, old in before.items()})
        (directory / file).write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        edit_manifest(directory, lambda manifest: manifest["files"].update({file: entry}))

    return corrupt


def _fill(value: float) -> Callable[[str, np.ndarray], np.ndarray]:
    def fill(_: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            array.flat[0] = value
        return array

    return fill


CORRUPTIONS: dict[str, Corruption] = {
    "missing weights": _replace(WEIGHTS_FILE),
    "missing manifest": _replace(MANIFEST_NAME),
    "missing probe": _replace(PROBE_FILE),
    "empty weights": _replace(WEIGHTS_FILE, Path.touch),
    "empty manifest": _replace(MANIFEST_NAME, Path.touch),
    "truncated weights": lambda directory: truncate(directory / WEIGHTS_FILE),
    "a bit flipped in the weights": lambda directory: flip(directory / WEIGHTS_FILE, 0.9),
    "a bit flipped in the probe": lambda directory: flip(directory / PROBE_FILE, 0.9),
    "a bit flipped in the manifest": lambda directory: flip(directory / MANIFEST_NAME, 0.0),
    "a bit flipped in unknown programs": _unknown_programs,
    "a wrong digest": _manifest(lambda manifest: manifest["files"][WEIGHTS_FILE].update(sha256="0" * 64)),
    "a path outside the version": _manifest(_path_outside),
    "a link": _replace(WEIGHTS_FILE, lambda path: path.symlink_to("/etc/hostname")),
    "a pipe": _replace(WEIGHTS_FILE, os.mkfifo),
    "a file of 10 GB": _ten_gigabytes,
    "weights of wrong shapes": _rewrite(WEIGHTS_FILE, lambda _, array: array[..., None]),
    "weights of wrong dtypes": _rewrite(WEIGHTS_FILE, lambda _, array: array.astype(np.float64)),
    "weights of wrong names": _rewrite(WEIGHTS_FILE, rename="x.{}".format),
    "weights that are NaN": _rewrite(WEIGHTS_FILE, _fill(np.nan)),
    "weights that are infinite": _rewrite(WEIGHTS_FILE, _fill(np.inf)),
    "no probe": _manifest(lambda manifest: manifest.pop("probe")),
    "a probe without rows": _rewrite(PROBE_FILE, lambda _, array: array[:0]),
    "a probe with wrong outputs": _rewrite(
        PROBE_FILE, lambda name, array: array + (name.startswith("output.") and array.dtype.kind == "f")
    ),
    "a newer format": _manifest(lambda manifest: manifest.update(format_version=99)),
    "another number": _manifest(lambda manifest: manifest.update(version=10**6)),
}
"""Corruptions by name; none of these versions may act."""

if os.geteuid() == 0:  # only root can make devices
    CORRUPTIONS["a device"] = _replace(
        WEIGHTS_FILE, lambda path: os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))
    )
