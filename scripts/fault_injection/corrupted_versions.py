"""Corruptions of a valid policy version, after which it must not act.

Each takes the directory of a version that no reader sees yet. Where a check would otherwise fail earlier, the manifest
is adapted to the corrupted file.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Mapping
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


def _remove(name: str) -> Corruption:
    return lambda directory: (directory / name).unlink()


def _replace(name: str, make: Callable[[Path], object]) -> Corruption:
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


def _flip(name: str, at: float = 0.9) -> Corruption:
    return lambda directory: flip(directory / name, at)


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


def _endless_zeros(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))


def _path_outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../../weights.safetensors"] = manifest["files"].pop(WEIGHTS_FILE)
    manifest["weights"] = "../../weights.safetensors"


def _rewrite(name: str, change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Corruption:
    """Change the tensors in a file, and declare its new digest in the manifest."""

    def corrupt(directory: Path) -> None:
        before = decode_weights((directory / name).read_bytes())
        data = encode_weights(change({name: array.copy() for name, array in before.items()}))
        (directory / name).write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        edit_manifest(directory, lambda manifest: manifest["files"].update({name: entry}))

    return corrupt


def _filled(value: float) -> Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]:
    def change(weights: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        next(array for array in weights.values() if array.dtype.kind == "f").flat[0] = value
        return weights

    return change


def _wrong_outputs(probe: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return {
        name: array + 1 if name.startswith("output.") and array.dtype.kind == "f" else array
        for name, array in probe.items()
    }


CORRUPTIONS: dict[str, Corruption] = {
    "missing weights": _remove(WEIGHTS_FILE),
    "missing manifest": _remove(MANIFEST_NAME),
    "missing probe": _remove(PROBE_FILE),
    "empty weights": _replace(WEIGHTS_FILE, Path.touch),
    "empty manifest": _replace(MANIFEST_NAME, Path.touch),
    "truncated weights": lambda directory: truncate(directory / WEIGHTS_FILE),
    "a bit flipped in the weights": _flip(WEIGHTS_FILE),
    "a bit flipped in the probe": _flip(PROBE_FILE),
    "a bit flipped in the manifest": _flip(MANIFEST_NAME, 0.0),
    "a bit flipped in unknown programs": _unknown_programs,
    "a wrong digest": _manifest(lambda manifest: manifest["files"][WEIGHTS_FILE].update(sha256="0" * 64)),
    "a path outside the version": _manifest(_path_outside),
    "a link": _replace(WEIGHTS_FILE, lambda path: path.symlink_to("/etc/hostname")),
    "a pipe": _replace(WEIGHTS_FILE, os.mkfifo),
    "a file of 10 GB": _ten_gigabytes,
    "weights of wrong shapes": _rewrite(
        WEIGHTS_FILE, lambda weights: {name: array[..., None] for name, array in weights.items()}
    ),
    "weights of wrong dtypes": _rewrite(
        WEIGHTS_FILE, lambda weights: {name: array.astype(np.float64) for name, array in weights.items()}
    ),
    "weights of wrong names": _rewrite(
        WEIGHTS_FILE, lambda weights: {f"x.{name}": array for name, array in weights.items()}
    ),
    "weights that are NaN": _rewrite(WEIGHTS_FILE, _filled(np.nan)),
    "weights that are infinite": _rewrite(WEIGHTS_FILE, _filled(np.inf)),
    "no probe": _manifest(lambda manifest: manifest.pop("probe")),
    "a probe without rows": _rewrite(PROBE_FILE, lambda probe: {name: array[:0] for name, array in probe.items()}),
    "a probe with wrong outputs": _rewrite(PROBE_FILE, _wrong_outputs),
    "a newer format": _manifest(lambda manifest: manifest.update(format_version=99)),
    "another number": _manifest(lambda manifest: manifest.update(version=10**6)),
}
"""Corruptions by name; none of these versions may act."""

if os.geteuid() == 0:  # only root can make devices
    CORRUPTIONS["a device"] = _replace(WEIGHTS_FILE, _endless_zeros)
