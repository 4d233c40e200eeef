"""Ways to spoil the directory of a policy version that is right, so that nobody may act with it any more.

Each takes a version's directory that no reader sees yet, and leaves it corrupted. Where a manifest has to promise
rightly
what is wrong, it is made to.
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

Spoil = Callable[[Path], None]

TEN_GB = 10 * 10**9


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest's JSON; nothing else of the version follows."""
    path = directory / MANIFEST_NAME
    content = msgspec.json.decode(path.read_bytes())
    edit(content)
    path.write_bytes(msgspec.json.encode(content))


def sign_as_it_lies(directory: Path, key: SigningKey) -> None:
    """Sign the manifest, if there is one, whatever it says: what is signed is refused for its own flaw."""
    manifest = directory / MANIFEST_NAME
    if manifest.exists():
        (directory / SIGNATURE_NAME).write_bytes(key.sign(manifest.read_bytes()))


def _manifest(edit: Callable[[dict[str, Any]], None]) -> Spoil:
    return lambda directory: edit_manifest(directory, edit)


def _remove(name: str) -> Spoil:
    return lambda directory: (directory / name).unlink()


def _replace(name: str, make: Callable[[Path], object]) -> Spoil:
    """Something else stands where a file was."""

    def spoil(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return spoil


def flip(path: Path, at: float) -> None:
    """Turn one bit of the file, in the byte that lies ``at`` of its length, from 0 to 1."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut the file's second half off."""
    os.truncate(path, path.stat().st_size // 2)


def _flip(name: str, at: float = 0.9) -> Spoil:
    return lambda directory: flip(directory / name, at)


def _programs_nobody_has_seen(directory: Path) -> None:
    """Every program has a bit flipped, and is promised to be another than any that an actor holds: so it is read."""
    for name in (TORCHSCRIPT_FILE, ONNX_FILE):
        if (directory / name).exists():
            flip(directory / name, 0.5)

    def promise(manifest: dict[str, Any]) -> None:
        for program in manifest["programs"]:
            program["program_digest"] = secrets.token_hex(32)

    edit_manifest(directory, promise)


def _ten_gigabytes(directory: Path) -> None:
    os.truncate(directory / WEIGHTS_FILE, TEN_GB)
    edit_manifest(directory, lambda manifest: manifest["files"][WEIGHTS_FILE].update(size_bytes=TEN_GB))


def _endless_zeros(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))


def _leads_outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../../weights.safetensors"] = manifest["files"].pop(WEIGHTS_FILE)
    manifest["weights"] = "../../weights.safetensors"


def _rewrite(name: str, change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Spoil:
    """Other tensors in a file, which the manifest promises rightly."""

    def spoil(directory: Path) -> None:
        before = decode_weights((directory / name).read_bytes())
        data = encode_weights(change({name: array.copy() for name, array in before.items()}))
        (directory / name).write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        edit_manifest(directory, lambda manifest: manifest["files"].update({name: entry}))

    return spoil


def _filled(value: float) -> Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]:
    def change(weights: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        next(array for array in weights.values() if array.dtype.kind == "f").flat[0] = value
        return weights

    return change


def _lie(probe: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Outputs that the policy does not give."""
    return {
        name: array + 1 if name.startswith("output.") and array.dtype.kind == "f" else array
        for name, array in probe.items()
    }


SPOILS: dict[str, Spoil] = {
    "missing weights": _remove(WEIGHTS_FILE),
    "missing manifest": _remove(MANIFEST_NAME),
    "missing probe": _remove(PROBE_FILE),
    "empty weights": _replace(WEIGHTS_FILE, Path.touch),
    "empty manifest": _replace(MANIFEST_NAME, Path.touch),
    "truncated weights": lambda directory: truncate(directory / WEIGHTS_FILE),
    "a bit flipped in the weights": _flip(WEIGHTS_FILE),
    "a bit flipped in the probe": _flip(PROBE_FILE),
    "a bit flipped in the manifest": _flip(MANIFEST_NAME, 0.0),
    "a bit flipped in programs that nobody has seen": _programs_nobody_has_seen,
    "a wrong digest": _manifest(lambda manifest: manifest["files"][WEIGHTS_FILE].update(sha256="0" * 64)),
    "a path that leads outside": _manifest(_leads_outside),
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
    "a probe that lies": _rewrite(PROBE_FILE, _lie),
    "a newer format": _manifest(lambda manifest: manifest.update(format_version=99)),
    "another number": _manifest(lambda manifest: manifest.update(version=10**6)),
}
"""By what they are called; none of these versions may ever act."""

if os.geteuid() == 0:  # nobody else may make one
    SPOILS["a device"] = _replace(WEIGHTS_FILE, _endless_zeros)
