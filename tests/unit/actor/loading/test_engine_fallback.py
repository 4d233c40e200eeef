"""The choice of an engine: by the fixed order, by measurement, and by earlier results."""

from collections.abc import Sequence

import numpy as np
import pytest

import shared.engines.llvm
from actor.loading import engine_choice
from actor.loading.engine_choice import is_clearly_faster, median_call_s
from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.engines.llvm import read_row_program
from shared.engines.onnx import OnnxEngine
from shared.engines.row_compiler.row_program import RowProgram
from shared.files.buffer_pool import is_lasting
from shared.files.digests import BLAKE3_FROM_BYTES
from shared.policy.weights import decode_weights
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import eager, make_policy, no_spare, publish_seed, quiet_noise


def _measured(monkeypatch: pytest.MonkeyPatch, first_s: float, challenger_s: float) -> list[int]:
    """Replace the measurement; return how many engines each one compared."""
    compared = []

    def measure(engines: Sequence[Engine], inputs: Sequence[np.ndarray]) -> list[float]:
        assert {array.shape[0] for array in inputs} == {5}, "measured at the batch size in use"
        compared.append(len(engines))
        return [first_s, challenger_s][: len(engines)]

    monkeypatch.setattr(engine_choice, "median_call_s", measure)
    return compared


@pytest.mark.parametrize(("nested", "first", "challenger"), [(False, "llvm", "onnx"), (True, "onnx", "torchscript")])
@pytest.mark.parametrize(
    ("call_times_s", "is_faster"), [((1e-3, 5e-4), True), ((5e-4, 1e-3), False), ((1e-3, 0.95e-3), False)]
)
def test_auto_takes_a_clearly_faster_engine_and_remembers_it(
    store: LocalPolicyStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    nested: bool,
    first: str,
    challenger: str,
    call_times_s: tuple[float, float],
    is_faster: bool,
) -> None:
    """A nested observation contains an image, which LLVM does not support."""
    compared = _measured(monkeypatch, *call_times_s)
    engines = EngineFallback(EngineOptions("auto", batch_size=5))
    for seed in range(2):
        version = publish_seed(store, seed, onnx=True, nested=nested).version
        result = engines.load(store.open(version), no_spare)
        assert result.policy.engine_name == (challenger if is_faster else first)
        assert result.describe() is None
    assert compared == [1, 2]


@pytest.mark.parametrize(
    ("choice", "method"), [("auto", "llvm"), ("llvm", "llvm"), ("onnx", "onnx"), ("torchscript", "torchscript")]
)
def test_without_measurement_the_order_is_fixed(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch, choice: EngineChoice, method: str
) -> None:
    compared = _measured(monkeypatch, 1.0, 0.0)
    publish_seed(store, 0, onnx=True)
    engines = EngineFallback(EngineOptions(choice, batch_size=5, measure=choice != "auto"))
    assert engines.load(store.open(0), no_spare).policy.engine_name == method
    assert compared == []


def test_a_chosen_engine_without_a_program_has_a_fallback(store: LocalPolicyStore) -> None:
    publish_seed(store, 0)
    loaded = EngineFallback(EngineOptions("onnx", batch_size=5)).load(store.open(0), no_spare)
    assert loaded.policy.engine_name == "torchscript"


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The graphs that the LLVM engine examined."""
    graphs = []

    def look(graph: bytes, outputs: Sequence[int] | None = None) -> RowProgram:
        graphs.append(graph)
        return read_row_program(graph, outputs)

    monkeypatch.setattr(shared.engines.llvm, "read_row_program", look)
    return graphs


@pytest.mark.parametrize(
    ("choice", "refusals", "said"),
    [("auto", [], None), ("llvm", ["llvm"], "version {}: onnx taken; llvm said: operator Conv")],
)
def test_an_unsupported_program_is_examined_once_and_reported_only_for_a_chosen_engine(
    store: LocalPolicyStore, examined: list[bytes], choice: EngineChoice, refusals: list[str], said: str | None
) -> None:
    engines = EngineFallback(EngineOptions(choice, batch_size=5, measure=False))
    for seed in range(3):
        version = publish_seed(store, seed, onnx=True, nested=True).version
        result = engines.load(store.open(version), no_spare)
        assert (result.policy.engine_name, result.policy.engine.kind) == ("onnx", "onnx")
        assert [name for name, _ in result.refusals] == refusals
        assert result.describe() == (said and said.format(version))
    assert len(examined) == 1


@pytest.mark.parametrize("blake3_from_bytes", [0, BLAKE3_FROM_BYTES])
def test_llvm_loads_new_weights_into_a_spare_engine(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch, blake3_from_bytes: int
) -> None:
    monkeypatch.setattr("shared.files.digests.BLAKE3_FROM_BYTES", blake3_from_bytes)
    engines = EngineFallback(EngineOptions("auto", batch_size=5, measure=False))
    first = engines.load(store.open(publish_seed(store, 0, onnx=True).version), no_spare).policy.engine
    spare = first.twin()
    second = engines.load(store.open(publish_seed(store, 1, onnx=True).version), lambda kind, digest: spare)
    assert second.policy.engine is spare
    observation = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for seed, engine in ((0, first), (1, spare)):
        policy = make_policy(seed=seed)
        inputs = [observation, quiet_noise(policy, 5)]
        for mine, expected in zip(engine.run(inputs), eager(policy, *inputs)[:2], strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


def test_a_measurement_is_of_whole_calls() -> None:
    calls: list[str] = []

    class Counting:
        kind: EngineKind = "onnx"
        program_digest = "p"

        def __init__(self, name: str, work: int) -> None:
            self.name, self.work = name, work

        def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            calls.append(self.name)
            return [inputs[0] + i for i in range(self.work)]

        def load_weights(self, weights: object) -> None:
            raise AssertionError

        def twin(self) -> None:
            raise AssertionError

    fast_s, slow_s = median_call_s([Counting("fast", 1), Counting("slow", 300)], [np.zeros(1000)])
    assert is_clearly_faster(fast_s, slow_s)
    assert not is_clearly_faster(slow_s, fast_s)
    assert calls[:4] == ["fast", "slow", "fast", "slow"]
    assert calls.count("fast") == calls.count("slow") >= 5


def test_buffers_of_large_weights_are_reused_but_never_under_an_engine(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 0)
    fallback, spares = EngineFallback(EngineOptions("onnx", batch_size=5)), dict[str, Engine]()
    engines = []
    for seed in range(8):
        files = store.open(publish_seed(store, seed, onnx=True).version)
        engine = fallback.load(files, lambda kind, digest: spares.pop(kind, None)).policy.engine
        assert isinstance(engine, OnnxEngine)
        engines.append((engine, files))
        if len(engines) == 3:
            oldest, _ = engines.pop(0)
            spares["onnx"] = oldest
        for held, of in engines:
            expected = decode_weights(of.read(of.manifest.weights))
            for name, array in held._weights.items():
                assert is_lasting(_memory(array)), "not copied"
                np.testing.assert_array_equal(array, expected[name])
    assert len(fallback._memory.pieces) == 4, "two in use, the spare's, and the one for its next weights"


def _memory(array: np.ndarray) -> object:
    memory: object = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    return memory
