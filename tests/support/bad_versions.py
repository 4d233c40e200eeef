"""Versions that must never act, of every kind that we could think of, made from versions that are right.

A bad version is committed as any other is, by a rename: no reader sees it while it is made.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from scripts.fault_injection.corrupted_versions import CORRUPTIONS, Corruption, flip, sign_manifest
from scripts.fault_injection.impossible_manifests import IMPOSSIBLE, UNSEEN
from shared.policy.manifest import ONNX_FILE, PROBE_FILE, TORCHSCRIPT_FILE
from shared.policy.probe import compute_probe, encode_probe
from shared.policy.signing import SigningKey
from shared.store.policy_store import LocalPolicyStore, version_name
from shared.store.version_files import mark_name, parse_mark_name
from tests.support import bad_programs
from tests.support.agent_policies import TouchyPolicy, exporter, make_policy, publish, publish_seed, touchy_exporter
from tests.support.impure_policies import ROW_MIXING, AroundPolicy, RefusesSingleRows
from tests.support.impure_versions import impure_stages
from tests.support.signature_attacks import ATTACKS, Attack, publish_signed, versions
from tests.support.store_cases import StoreCase

Outcome = Literal["quarantined", "retried", "not seen", "quarantined while acting"]
"""What becomes of it: refused for good before it acts, refused for now, never noticed, or caught by what it answers."""

Stage = Callable[[LocalPolicyStore, int], None]
"""Publishes a version, with weights of a seed, into a store that no actor watches, and corrupts it there."""


@dataclass(frozen=True)
class BadKind:
    """``reason`` is a part of the one line that is said of it. ``signed``: its stage signs it, or rightly does not.

    ``of_files``: only its files are corrupted, and no program of its own is run.
    """

    name: str
    stage: Stage
    reason: str
    outcome: Outcome = "quarantined"
    signed: bool = False
    of_files: bool = False


def publish_bad(store: LocalPolicyStore, kind: BadKind, seed: int = 1, key: SigningKey | None = None) -> int:
    """Commit a version of ``kind`` under a new number, which is returned.

    With ``key`` all is signed as it lies there, so that it is refused for its own flaw.
    """

    def stage(staged: LocalPolicyStore) -> None:
        kind.stage(staged, seed)
        if key is not None and not kind.signed:
            for directory in staged.path.glob("v*"):
                sign_manifest(directory, key)

    return _publish_staged(store, stage)


def publish_corrupted(store: LocalPolicyStore, corrupt: Corruption, *, seed: int, onnx: bool = False) -> int:
    """Commit ``make_policy(seed=seed)``, corrupted, under a new number, which is returned."""

    def stage(staged: LocalPolicyStore) -> None:
        publish_seed(staged, seed, onnx=onnx)
        corrupt(_directory(staged))

    return _publish_staged(store, stage)


def _publish_staged(store: LocalPolicyStore, stage: Callable[[LocalPolicyStore], None]) -> int:
    newest = store.newest()
    staged = LocalPolicyStore(store.path.parent / f"staged-{secrets.token_hex(4)}", fsync=False)
    if newest is not None:
        staged.path.mkdir()
        (staged.path / mark_name(newest)).touch()
    stage(staged)
    version = max(number for path in staged.path.iterdir() if (number := parse_mark_name(path.name)) is not None)
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


def _corrupted(corrupt: Corruption) -> Stage:
    """A valid version whose directory is corrupted."""

    def stage(store: LocalPolicyStore, seed: int) -> None:
        publish_seed(store, seed)
        corrupt(_directory(store))

    return stage


def _program(make: Callable[[int], nn.Module]) -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        bad_programs.publish_program(store, make(seed))  # type: ignore[arg-type]

    return stage


def _steered(harm: str) -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        bad_programs.publish_steered(store, seed, harm)

    return stage


def _zip_bomb(store: LocalPolicyStore, seed: int) -> None:
    policy = make_policy(seed=seed)
    program, entry = bad_programs.zip_bomb()
    publish(store, policy, exporter(), instead={TORCHSCRIPT_FILE: program}, programs=(entry,))


def _touchy(**limits: float) -> Stage:
    def stage(store: LocalPolicyStore, seed: int) -> None:
        publish(store, TouchyPolicy(seed=seed, **limits), touchy_exporter())

    return stage


def _flipped(name: str) -> Corruption:
    return lambda directory: flip(directory / name, 0.5)


def _flipped_onnx(store: LocalPolicyStore, seed: int) -> None:
    """The only program: with another beside it, that one may act."""
    policy, made_by = make_policy(seed=seed), exporter(onnx=True)
    _, programs, _ = made_by.files(policy.state_dict())
    publish(store, policy, made_by, programs=tuple(program for program in programs if program.kind == "onnx"))
    flip(_directory(store) / ONNX_FILE, 0.5)


def _missing_program(store: LocalPolicyStore, seed: int) -> None:
    """The other program of the version is whole, and could act."""
    publish_seed(store, seed, onnx=True)
    (_directory(store) / TORCHSCRIPT_FILE).unlink()


def _other_actions(store: LocalPolicyStore, seed: int) -> None:
    publish_seed(store, seed, action="box")


def _attacked(attack: Attack) -> Stage:
    """What is signed rightly is there until it is attacked."""

    def stage(store: LocalPolicyStore, seed: int) -> None:
        case = StoreCase("local", f"file://{store.path}")
        for number in (0, seed):
            publish_signed(case, number)
        attack(case)
        *others, _ = versions(case)
        for name in others:
            case.remove(name)

    return stage


def _abandoned(directory: Path) -> None:
    directory.rename(directory.parent / ".pending" / f".tmp-{secrets.token_hex(8)}")


def _kind(name: str, reason: str, outcome: Outcome = "quarantined") -> BadKind:
    """A version with a corruption that has a name."""
    return BadKind(name, _corrupted(CORRUPTIONS[name]), reason, outcome, of_files=True)


VARYING = (
    bad_programs.WideLogProbForSomeInputs,
    bad_programs.FloatActionForSomeInputs,
    bad_programs.ShortActionForSomeInputs,
    bad_programs.ComplexLogProbForSomeInputs,
    bad_programs.HalfPreciseLogProbForSomeInputs,
    bad_programs.FewerRowsForSomeInputs,
    bad_programs.ScalarForSomeInputs,
    bad_programs.FewerOutputsForSomeInputs,
)
"""Outputs of another form for some inputs."""


def _impure(make: type[AroundPolicy]) -> Stage:
    """A program that reproduces its probe."""

    def stage(store: LocalPolicyStore, seed: int) -> None:
        module = make(seed).eval()
        probe = encode_probe(compute_probe(module, module.signature), module.signature)
        bad_programs.publish_program(store, module, instead={PROBE_FILE: probe})

    return stage


def _spaced(kind: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


BAD_KINDS = (
    _kind("missing weights", "the manifest lists it", "retried"),
    _kind("missing manifest", "", "not seen"),
    _kind("missing probe", "the manifest lists it", "retried"),
    _kind("empty weights", "expected"),
    _kind("empty manifest", "not a manifest"),
    _kind("truncated weights", "bytes, found"),
    _kind("a bit flipped in the weights", "expected SHA-256"),
    _kind("a bit flipped in the probe", "expected SHA-256"),
    BadKind(
        "a bit flipped in the TorchScript program",
        _corrupted(_flipped(TORCHSCRIPT_FILE)),
        "policy.ts: expected SHA-256",
        of_files=True,
    ),
    BadKind("a bit flipped in the ONNX graph", _flipped_onnx, "policy.onnx: expected SHA-256", of_files=True),
    _kind("a bit flipped in unknown programs", "expected SHA-256"),
    _kind("a bit flipped in the manifest", "not a manifest"),
    _kind("a wrong digest", "expected SHA-256"),
    BadKind("an abandoned write", _corrupted(_abandoned), "", "not seen"),
    _kind("a path outside the version", "the plain name of a file"),
    _kind("a link", "a symbolic link"),
    _kind("a pipe", "a pipe"),
    *([_kind("a device", "a device")] if "a device" in CORRUPTIONS else []),  # only root can make one
    _kind("a file of 10 GB", "at most"),
    BadKind("a zip bomb", _zip_bomb, "unpack"),
    _kind("weights of wrong shapes", "belong to another network"),
    _kind("weights of wrong dtypes", "belong to another network"),
    _kind("weights of wrong names", "weights do not fit"),
    _kind("weights that are NaN", "not finite"),
    _kind("weights that are infinite", "not finite"),
    _kind("no probe", "probe"),
    _kind("a probe without rows", "no rows"),
    _kind("a probe with wrong outputs", "differ by more than"),
    BadKind("another action space", _other_actions, "made for another environment"),
    BadKind("fewer outputs", _program(bad_programs.FewerOutputs), "does not return what its signature promises"),
    BadKind("more outputs", _program(bad_programs.MoreOutputs), "does not return what its signature promises"),
    BadKind("outputs swapped", _program(bad_programs.SwappedOutputs), "differ by more than"),
    BadKind("complex log-probabilities", _program(bad_programs.ComplexLogProb), "does not return what its signature"),
    BadKind("the observation as a log-probability", _program(bad_programs.ObservationAsLogProb), "differ by more than"),
    BadKind("right at one batch size", _program(bad_programs.RightAtOneBatchSize), "differ by more than"),
    BadKind("code that runs while it loads", _program(bad_programs.RunsWhileItLoads), "replace __setstate__"),
    BadKind("a program that hangs", _program(bad_programs.Hangs), "no answer within"),
    BadKind("a program that needs a hundred times the time", _program(bad_programs.NeedsAHundredTimes), "as long as"),
    BadKind("a program that eats all memory", _program(bad_programs.EatsAllMemory), "GiB of memory"),
    BadKind("a program that crashes", _program(bad_programs.Crashes), "killed the sandbox process"),
    *(
        BadKind(f"a {harm} by its weights", _steered(harm), reason)
        for harm, (_, reason) in bad_programs.STEERED.items()
    ),
    *(BadKind(name, stage, reason) for name, stage, reason in impure_stages()),
    *(BadKind(name, _corrupted(corrupt), reason) for name, (corrupt, reason) in IMPOSSIBLE.items()),
    *(BadKind(name, _corrupted(corrupt), "", "not seen") for name, corrupt in UNSEEN.items()),
    BadKind("a program that is listed but not there", _missing_program, "policy.ts: the manifest lists it", "retried"),
    _kind("a newer format", "expected manifest format"),
    _kind("another number", "expected a manifest of"),
    BadKind("NaN for some inputs", _touchy(nan_above=5e4), "PolicyOutputError", "quarantined while acting"),
    BadKind("illegal for some inputs", _touchy(illegal_above=5e4), "PolicyOutputError", "quarantined while acting"),
    *(BadKind(_spaced(kind), _program(kind), "PolicyOutputError", "quarantined while acting") for kind in VARYING),
    *(BadKind(_spaced(kind), _impure(kind), "differ by more than") for kind in (*ROW_MIXING, RefusesSingleRows)),
)
"""At least one of every kind."""

SIGNATURE_KINDS = tuple(
    BadKind(attack.__name__.replace("_", " "), _attacked(attack), reason.rpartition(".*")[2], signed=True)
    for attack, reason in ATTACKS.items()
)
"""For actors with a key; the tests of signatures hold each to its whole reason."""

SLOW_KINDS = (
    "a program that hangs",
    "a program that eats all memory",
    "a program that needs a hundred times the time",
    "a hang by its weights",
)
"""Those that take seconds to find out."""
