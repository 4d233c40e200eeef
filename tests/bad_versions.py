"""Versions that must never act, of every kind that we could think of, made from versions that are right.

A bad version is committed as any other is, by a rename: no reader sees it while it is made.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from torch import nn

from learner.policy_export import PROBE_FILE, TORCHSCRIPT_FILE, WEIGHTS_FILE
from shared.manifest import MANIFEST_NAME
from shared.policy_store import LocalPolicyStore, version_name
from shared.version_files import mark_name
from shared.weights import decode_weights, encode_weights
from tests import bad_programs
from tests.agent_policies import TouchyPolicy, exporter, make_policy, publish, publish_seed, touchy_exporter

Outcome = Literal["quarantined", "retried", "not seen", "quarantined while acting"]
"""What becomes of it: refused for good before it acts, refused for now, never noticed, or caught by what it answers."""

Stage = Callable[[LocalPolicyStore, int], None]
"""Publishes a version, with weights of a seed, into a store that nobody watches, and spoils it there."""

TEN_GB = 10 * 10**9


@dataclass(frozen=True)
class BadKind:
    """``reason`` is a part of the one line that is said of it."""

    name: str
    stage: Stage
    reason: str
    outcome: Outcome = "quarantined"


def publish_bad(store: LocalPolicyStore, kind: BadKind, seed: int = 1) -> int:
    """Commit a version of ``kind`` under the next number, which is returned."""
    version = (store.newest() if store.newest() is not None else -1) + 1  # type: ignore[operator]
    staged = LocalPolicyStore(store.path.parent / f"staged-{secrets.token_hex(4)}", fsync=False)
    if version:
        staged.path.mkdir()
        (staged.path / mark_name(version - 1)).touch()
    kind.stage(staged, seed)
    (store.path / mark_name(version)).touch()
    for path in staged.path.iterdir():
        if path.name == ".pending":
            for write in path.iterdir():
                write.rename(store.path / ".pending" / write.name)
        elif not path.name.startswith(".highest"):
            path.rename(store.path / path.name)
    return version


def _directory(store: LocalPolicyStore) -> Path:
    version = store.newest()
    assert version is not None
    return store.path / version_name(version)


def _spoilt(spoil: Callable[[Path], None]) -> Stage:
    """A right version whose directory is spoilt."""

    def stage(store: LocalPolicyStore, seed: int) -> None:
        publish_seed(store, seed)
        spoil(_directory(store))

    return stage


def _edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = directory / MANIFEST_NAME
    content = msgspec.json.decode(path.read_bytes())
    edit(content)
    path.write_bytes(msgspec.json.encode(content))


def _manifest(edit: Callable[[dict[str, Any]], None]) -> Stage:
    return _spoilt(lambda directory: _edit_manifest(directory, edit))


def _flip(name: str, at: float = 0.9) -> Stage:
    def spoil(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[int(at * len(content))] ^= 0x10
        (directory / name).write_bytes(content)

    return _spoilt(spoil)


def _replace(name: str, make: Callable[[Path], object]) -> Stage:
    """Something else stands where a file was."""

    def spoil(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return _spoilt(spoil)


def _truncate(directory: Path) -> None:
    path = directory / WEIGHTS_FILE
    os.truncate(path, path.stat().st_size // 2)


def _ten_gigabytes(directory: Path) -> None:
    os.truncate(directory / WEIGHTS_FILE, TEN_GB)
    _edit_manifest(directory, lambda manifest: manifest["files"][WEIGHTS_FILE].update(size_bytes=TEN_GB))


def _leads_outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../../weights.safetensors"] = manifest["files"].pop(WEIGHTS_FILE)
    manifest["weights"] = "../../weights.safetensors"


def _other_weights(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Stage:
    """Weights that the manifest promises rightly, and the program cannot use."""

    def stage(store: LocalPolicyStore, seed: int) -> None:
        policy = make_policy(seed=seed)
        files, _, _ = exporter().files(policy.state_dict())
        weights = {name: array.copy() for name, array in decode_weights(files[WEIGHTS_FILE]).items()}
        publish(store, policy, exporter(), instead={WEIGHTS_FILE: encode_weights(change(weights))})

    return stage


def _filled(value: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    def change(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        next(iter(weights.values())).flat[0] = value
        return weights

    return change


def _lying_probe(store: LocalPolicyStore, seed: int) -> None:
    lie, _, _ = exporter().files(make_policy(seed=seed + 1000).state_dict())
    publish(store, make_policy(seed=seed), exporter(), instead={PROBE_FILE: lie[PROBE_FILE]})


def _empty_probe(store: LocalPolicyStore, seed: int) -> None:
    policy = make_policy(seed=seed)
    files, _, _ = exporter().files(policy.state_dict())
    rows = {name: array[:0] for name, array in decode_weights(files[PROBE_FILE]).items()}
    publish(store, policy, exporter(), instead={PROBE_FILE: encode_weights(rows)})


def _program(make: Callable[[int], nn.Module]) -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        bad_programs.publish_program(store, make(seed))  # type: ignore[arg-type]

    return stage


def _zip_bomb(store: LocalPolicyStore, seed: int) -> None:
    policy = make_policy(seed=seed)
    program, entry = bad_programs.zip_bomb()
    publish(store, policy, exporter(), instead={TORCHSCRIPT_FILE: program}, programs=(entry,))


def _touchy(**limits: float) -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        publish(store, TouchyPolicy(seed=seed, **limits), touchy_exporter())

    return stage


def _other_actions(store: LocalPolicyStore, seed: int) -> None:
    publish_seed(store, seed, action="box")


def _abandoned(directory: Path) -> None:
    directory.rename(directory.parent / ".pending" / f".tmp-{secrets.token_hex(8)}")


BAD_KINDS = (
    BadKind("missing weights", _spoilt(lambda d: (d / WEIGHTS_FILE).unlink()), "is not there", "retried"),
    BadKind("missing manifest", _spoilt(lambda d: (d / MANIFEST_NAME).unlink()), "", "not seen"),
    BadKind("missing probe", _spoilt(lambda d: (d / PROBE_FILE).unlink()), "is not there", "retried"),
    BadKind("empty weights", _replace(WEIGHTS_FILE, Path.touch), "expected"),
    BadKind("empty manifest", _replace(MANIFEST_NAME, Path.touch), "not a manifest"),
    BadKind("truncated weights", _spoilt(_truncate), "bytes, found"),
    BadKind("a bit flipped in the weights", _flip(WEIGHTS_FILE), "expected SHA-256"),
    BadKind("a bit flipped in the probe", _flip(PROBE_FILE), "expected SHA-256"),
    BadKind("a bit flipped in the manifest", _flip(MANIFEST_NAME, 0.0), "not a manifest"),
    BadKind(
        "a wrong digest",
        _manifest(lambda manifest: manifest["files"][WEIGHTS_FILE].update(sha256="0" * 64)),
        "expected SHA-256",
    ),
    BadKind("an abandoned write", _spoilt(_abandoned), "", "not seen"),
    BadKind("a path that leads outside", _manifest(_leads_outside), "plain names"),
    BadKind("a link", _replace(WEIGHTS_FILE, lambda path: path.symlink_to("/etc/hostname")), "a symbolic link"),
    BadKind("a device", _replace(WEIGHTS_FILE, os.mkfifo), "a pipe"),
    BadKind("a file of 10 GB", _spoilt(_ten_gigabytes), "at most"),
    BadKind("a zip bomb", _zip_bomb, "unpack"),
    BadKind(
        "weights of wrong shapes",
        _other_weights(lambda weights: {name: array[..., None] for name, array in weights.items()}),
        "belong to another network",
    ),
    BadKind(
        "weights of wrong dtypes",
        _other_weights(lambda weights: {name: array.astype(np.float64) for name, array in weights.items()}),
        "belong to another network",
    ),
    BadKind(
        "weights of wrong names",
        _other_weights(lambda weights: {f"x.{name}": array for name, array in weights.items()}),
        "weights do not fit",
    ),
    BadKind("weights that are NaN", _other_weights(_filled(np.nan)), "not finite"),
    BadKind("weights that are infinite", _other_weights(_filled(np.inf)), "not finite"),
    BadKind("no probe", _manifest(lambda manifest: manifest.pop("probe")), "probe"),
    BadKind("a probe without rows", _empty_probe, "no rows"),
    BadKind("a probe that lies", _lying_probe, "differ by more than"),
    BadKind("another action space", _other_actions, "made for another environment"),
    BadKind("fewer outputs", _program(bad_programs.FewerOutputs), "does not return what its signature promises"),
    BadKind("more outputs", _program(bad_programs.MoreOutputs), "does not return what its signature promises"),
    BadKind("outputs swapped", _program(bad_programs.SwappedOutputs), "differ by more than"),
    BadKind("right at one batch size", _program(bad_programs.RightAtOneBatchSize), "differ by more than"),
    BadKind("a program that hangs", _program(bad_programs.Hangs), "no answer within"),
    BadKind("a program that needs a hundred times the time", _program(bad_programs.NeedsAHundredTimes), "as long as"),
    BadKind("a program that eats all memory", _program(bad_programs.EatsAllMemory), "GiB of memory"),
    BadKind("a program that crashes", _program(bad_programs.Crashes), "killed the process that tried it"),
    BadKind(
        "a newer format", _manifest(lambda manifest: manifest.update(format_version=99)), "expected manifest format"
    ),
    BadKind("another number", _manifest(lambda manifest: manifest.update(version=10**6)), "expected a manifest of"),
    BadKind("NaN for some inputs", _touchy(nan_above=500.0), "it answered with", "quarantined while acting"),
    BadKind("illegal for some inputs", _touchy(illegal_above=500.0), "it answered with", "quarantined while acting"),
)
"""At least one of every kind; those with signatures stand beside the tests of signatures."""

SLOW_KINDS = ("a program that hangs", "a program that eats all memory", "a program that needs a hundred times the time")
"""Those that take seconds to find out."""
