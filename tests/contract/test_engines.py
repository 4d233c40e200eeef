"""What every engine promises, over every kind of policy. A new engine joins by one name in CHEAP_ENGINES.

Engines that compile for many seconds are held to the same promises over REPRESENTATIVES. What an engine does not run
is named in UNSUPPORTED, and it has to say so.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from actor.verification.probe_verifier import ProbeVerifier
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import CLASS_PATH
from shared.engines.engine import Engine, EngineKind
from shared.engines.importable import ImportablePolicy
from shared.engines.load import PROGRAM_OF, check_support, load_program
from shared.errors import NotTrusted, ProgramError, ProgramUnsupported, WeightsError
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import ProgramKind
from shared.policy.output_bounds import InBounds, output_bounds
from shared.policy.probe import compare, compute_probe, decode_probe, make_inputs
from shared.policy.signature import PolicySignature
from shared.policy.weights import decode_weights
from tests.support.policies import (
    CASES,
    COMBINATIONS,
    REPRESENTATIVES,
    WAYS,
    MadeVersion,
    make_policy,
    make_version,
    stirred,
)

CHEAP_ENGINES: tuple[EngineKind, ...] = ("torchscript", "onnx", "llvm", "eager")
COMPILING_ENGINES: tuple[EngineKind, ...] = ("executorch", "aot", "compile")
ADDED: tuple[ProgramKind, ...] = ("executorch", "aot")
ENGINES = [*CHEAP_ENGINES, *(pytest.param(kind, marks=pytest.mark.slow) for kind in COMPILING_ENGINES)]
UNSUPPORTED: Mapping[EngineKind, frozenset[str]] = {
    "llvm": frozenset(  # images, and actions that are computed in float64
        {
            "image, gru, masked multi-discrete",
            "nested, clipped box",
            "sensors, lstm, masked discrete",
            "vector, float64 box",
            *(case for case, combination in COMBINATIONS.items() if combination.observation in ("image", "dict")),
        }
    )
}


class Exported:
    """A policy and two versions of it with different weights."""

    def __init__(self, case: str, added: ProgramKind | None) -> None:
        self.policy = make_policy(case)
        importable = ImportablePolicy(CLASS_PATH, self.policy.arguments)
        programs: tuple[ProgramKind, ...] = () if added is None else ("torchscript", added)
        self.exporter = PolicyExporter(self.policy, self.policy.signature, importable=importable, programs=programs)
        self.first = make_version(self.exporter, self.policy.state_dict(), 0)
        self.other_policy = stirred(make_policy(case), seed=1)
        self.second = make_version(self.exporter, self.other_policy.state_dict(), 1)

    @property
    def signature(self) -> PolicySignature:
        return self.policy.signature


@functools.cache
def export(case: str, added: ProgramKind | None = None) -> Exported:
    return Exported(case, added)


class Subject:
    """One engine on one policy."""

    def __init__(self, kind: EngineKind, case: str) -> None:
        self.kind = kind
        if kind == "executorch":
            pytest.importorskip("executorch", reason="the extra executorch is not installed")
        self.exported = export(case, next((program for program in ADDED if program == kind), None))

    def load(self, version: MadeVersion, outputs: Sequence[int] | None = None) -> Engine:
        return load_program(
            self.kind,
            version.read,
            version.manifest,
            trust=ProgramTrust(native=True, modules=("learner",)),
            outputs=outputs,
        )


def _is_supported(kind: EngineKind, case: str) -> bool:
    return case not in UNSUPPORTED.get(kind, ())


def _subjects() -> Iterator[ParameterSet]:
    for kind in CHEAP_ENGINES:
        for case in filter(functools.partial(_is_supported, kind), CASES):
            yield pytest.param((kind, case), id=f"{kind}: {case}")
    for kind in COMPILING_ENGINES:
        for case in REPRESENTATIVES:
            yield pytest.param((kind, case), id=f"{kind}: {case}", marks=pytest.mark.slow)


@pytest.fixture(params=_subjects())
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(*request.param)


@pytest.fixture
def exported(subject: Subject) -> Exported:
    return subject.exported


@pytest.fixture
def load(subject: Subject) -> Callable[[MadeVersion], Engine]:
    return subject.load


@pytest.fixture(params=ENGINES)
def simple(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param, "vector, discrete")


Load = Callable[[MadeVersion], Engine]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_equals_eager(exported: Exported, load: Load, batch_size: int) -> None:
    expected = compute_probe(exported.policy.eval(), exported.signature, batch_size=batch_size, seed=5)
    found = load(exported.first).run(expected.inputs)
    compare(expected.outputs, found, exported.signature, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_in_bounds_outputs_are_within_bounds(subject: Subject, batch_size: int) -> None:
    signature, engine = subject.exported.signature, subject.load(subject.exported.first)
    for seed in range(3):
        inputs = make_inputs(signature, batch_size, seed)
        found = engine.run(inputs)
        assert isinstance(found, InBounds) is (subject.kind == "llvm")
        if isinstance(found, InBounds):
            assert found.bounds == output_bounds(signature)
        for array in inputs:
            if array.dtype == np.float32:
                array[-1] = np.nan
        assert not isinstance(engine.run(inputs), InBounds)


def test_bounds_go_with_the_outputs_that_are_kept(simple: Subject) -> None:
    if simple.kind != "llvm":
        pytest.skip("checks nothing itself")
    inputs = make_inputs(simple.exported.signature, 3, 0)
    found = simple.load(simple.exported.first, outputs=[1]).run(inputs)
    assert isinstance(found, InBounds)
    assert found.bounds == output_bounds(simple.exported.signature)[1:2]


def test_reproduces_the_probe_of_its_version(exported: Exported, load: Load) -> None:
    probe = decode_probe(exported.first.read(exported.first.manifest.probe.file), exported.signature)
    tolerance = exported.first.manifest.probe
    compare(probe.outputs, load(exported.first).run(probe.inputs), exported.signature, tolerance.atol, tolerance.rtol)


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_is_a_pure_function_of_each_row_and_the_weights(subject: Subject, batch_size: int) -> None:
    version = subject.exported.first
    probe = decode_probe(version.read(version.manifest.probe.file), subject.exported.signature)
    weights = decode_weights(version.read(version.manifest.weights))
    ProbeVerifier(version.manifest, probe, batch_size).verify_purity(subject.load(version), weights)


def test_knows_the_weights_that_it_has(subject: Subject) -> None:
    if subject.kind == "aot":
        pytest.skip("the package's copy cannot be read")
    engine = subject.load(subject.exported.first)
    first, second = (
        decode_weights(v.read("weights.safetensors")) for v in (subject.exported.first, subject.exported.second)
    )
    assert engine.has_weights(first)
    assert not engine.has_weights(second)
    engine.load_weights(second)
    assert engine.has_weights(second)
    assert not engine.has_weights(first)


def test_new_weights_make_it_the_new_version(exported: Exported, load: Load) -> None:
    reloaded = load(exported.first)
    reloaded.run(make_inputs(exported.signature, 3, seed=0))
    reloaded.load_weights(decode_weights(exported.second.read(exported.second.manifest.weights)))
    expected = compute_probe(exported.other_policy.eval(), exported.signature, batch_size=3, seed=5)
    compare(expected.outputs, reloaded.run(expected.inputs), exported.signature, 1e-5, 1e-5)
    for mine, theirs in zip(reloaded.run(expected.inputs), load(exported.second).run(expected.inputs), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_program_has_one_digest_whatever_its_weights(exported: Exported, load: Load) -> None:
    first, second = load(exported.first), load(exported.second)
    assert first.program_digest == second.program_digest
    assert first.program_digest in {program.program_digest for program in exported.first.manifest.programs}
    assert exported.first.read("weights.safetensors") != exported.second.read("weights.safetensors")


def test_outputs_are_new_arrays(exported: Exported, load: Load) -> None:
    engine = load(exported.first)
    inputs = make_inputs(exported.signature, 3, seed=0)
    outputs = engine.run(inputs)
    kept = [output.copy() for output in outputs]
    for array, other in zip(inputs, make_inputs(exported.signature, 3, seed=1), strict=True):
        array[...] = other
    engine.run(inputs)
    for output, before in zip(outputs, kept, strict=True):
        np.testing.assert_array_equal(output, before)
        assert output.flags.c_contiguous
        assert output.flags.writeable


def test_the_same_inputs_give_the_same_bits(exported: Exported, load: Load) -> None:
    engine, other = load(exported.first), load(exported.first)
    inputs = make_inputs(exported.signature, 3, seed=0)
    first = engine.run(inputs)
    for batch_size in (64, 1):  # other batch sizes in between change nothing
        engine.run(make_inputs(exported.signature, batch_size, seed=2))
    for again in (engine.run(inputs), other.run(inputs)):
        for output, before in zip(again, first, strict=True):
            np.testing.assert_array_equal(output, before)


def test_takes_read_only_inputs(exported: Exported, load: Load) -> None:
    inputs = make_inputs(exported.signature, 3, seed=0)
    for array in inputs:
        array.flags.writeable = False
    exported.signature.check_outputs(load(exported.first).run(inputs), 3)


def test_other_outputs_are_the_same_without_the_value(subject: Subject) -> None:
    exported, signature = subject.exported, subject.exported.signature
    kept = [i for i, spec in enumerate(signature.outputs) if spec.role != "value"]
    engine = subject.load(exported.first, kept)
    inputs = make_inputs(signature, 3, seed=0)
    for version in (exported.first, exported.second):
        engine.load_weights(decode_weights(version.read("weights.safetensors")))
        found, whole = engine.run(inputs), subject.load(version).run(inputs)
        signature.without_value.check_outputs(found, 3)
        for output, i in zip(found, kept, strict=True):
            np.testing.assert_array_equal(output, whole[i])
    assert engine.program_digest == subject.load(exported.first).program_digest


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weights, name: weights.pop(name), "missing"),
        (lambda weights, name: weights.update(surplus=np.zeros(3, np.float32)), "unexpected"),
        (lambda weights, name: weights.update({name: weights[name][..., None]}), "expected float32"),
        (lambda weights, name: weights.update({name: weights[name].astype(np.float64)}), "found float64"),
        (lambda weights, name: weights.update({name: np.full_like(weights[name], np.nan)}), "not finite"),
    ],
    ids=["missing", "surplus", "shape", "dtype", "NaN"],
)
def test_refused_weights_leave_the_engine_unchanged(simple: Subject, spoil: Callable, message: str) -> None:
    exported = simple.exported
    engine = simple.load(exported.first)
    inputs = make_inputs(exported.signature, 3, seed=0)
    before = engine.run(inputs)
    weights = decode_weights(exported.second.read(exported.second.manifest.weights))
    spoil(weights, next(iter(name for name, array in weights.items() if array.dtype == np.float32)))
    with pytest.raises(WeightsError, match=message):
        engine.load_weights(weights)
    for output, expected in zip(engine.run(inputs), before, strict=True):
        np.testing.assert_array_equal(output, expected)


def test_weights_are_copied(simple: Subject) -> None:
    exported = simple.exported
    engine = simple.load(exported.first)
    weights = {k: v.copy() for k, v in decode_weights(exported.second.read("weights.safetensors")).items()}
    engine.load_weights(weights)
    inputs = make_inputs(exported.signature, 3, seed=0)
    before = engine.run(inputs)
    for array in weights.values():
        array[...] = 0
    for output, expected in zip(engine.run(inputs), before, strict=True):
        np.testing.assert_array_equal(output, expected)


def test_the_combinations_are_pairwise() -> None:
    found = COMBINATIONS.values()
    for one, other in itertools.combinations(WAYS, 2):
        for choices in itertools.product(WAYS[one], WAYS[other]):
            if True in choices and choices[0] in ("multi-binary", "box") and other == "masked":
                continue
            assert any((getattr(c, one), getattr(c, other)) == choices for c in found), (one, other, choices)


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in UNSUPPORTED.items() for case in CASES if case in cases]
)
def test_unsupported_programs_are_reported_as_such(kind: EngineKind, case: str) -> None:
    _assert_unsupported(Subject(kind, case))


def _assert_unsupported(subject: Subject) -> None:
    version = subject.exported.first
    with pytest.raises(ProgramUnsupported):
        subject.load(version)
    program = version.manifest.program(PROGRAM_OF[subject.kind])
    assert program is not None
    with pytest.raises(ProgramUnsupported):
        check_support(subject.kind, program, version.read)


@pytest.mark.slow
@pytest.mark.parametrize("case", COMBINATIONS)
@pytest.mark.parametrize("kind", CHEAP_ENGINES)
def test_every_combination_equals_eager(kind: EngineKind, case: str) -> None:
    if not _is_supported(kind, case):
        _assert_unsupported(Subject(kind, case))
        return
    subject = Subject(kind, case)
    exported = subject.exported
    engine = subject.load(exported.first)
    for policy, version in ((exported.policy, exported.first), (exported.other_policy, exported.second)):
        engine.load_weights(decode_weights(version.read("weights.safetensors")))
        for batch_size in (1, 3, 64):
            expected = compute_probe(policy.eval(), exported.signature, batch_size=batch_size, seed=5)
            compare(expected.outputs, engine.run(expected.inputs), exported.signature, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_onnx_sessions_that_take_weights_equal_those_that_have_them(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = export(case)
    own = load_program("onnx", exported.first.read, exported.first.manifest)
    monkeypatch.setattr("shared.engines.onnx._LARGE_BYTES", 0)
    monkeypatch.setattr("shared.engines.onnx_session._fastest_call_s", lambda *_: (1.0, 1.0))
    bound = load_program("onnx", exported.first.read, exported.first.manifest, batch_size=1)
    for policy, version in ((exported.other_policy, exported.second), (exported.policy, exported.first)):
        weights = decode_weights(version.read("weights.safetensors"))
        own.load_weights(weights)
        with monkeypatch.context() as patched:
            patched.setattr("shared.engines.onnx_session.SessionMaker.make", None)
            bound.load_weights(weights)
        for batch_size in (1, 1, 3, 8, 33):
            probe = compute_probe(policy.eval(), exported.signature, batch_size=batch_size, seed=5)
            for expected in (probe.outputs, own.run(probe.inputs)):
                compare(expected, bound.run(probe.inputs), exported.signature, 1e-5, 1e-5)


@pytest.mark.parametrize("kind", ["compile", "eager"])
@pytest.mark.parametrize("trusted", [(), ("learne", "shared")])
def test_nothing_is_imported_that_was_not_allowed(kind: EngineKind, trusted: tuple[str, ...]) -> None:
    version = export("vector, discrete").first
    with pytest.raises(NotTrusted, match=r"--trust-module learner\.networks\.acting_policy"):
        load_program(kind, version.read, version.manifest, trust=ProgramTrust(native=True, modules=trusted))


def test_version_without_the_program_is_a_program_error() -> None:
    version = export("vector, discrete").first
    with pytest.raises(ProgramError, match="has no aot program"):
        load_program("aot", version.read, version.manifest, trust=ProgramTrust(native=True))
