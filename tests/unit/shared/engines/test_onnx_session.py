"""Sessions that take weights as inputs, and calls with bound buffers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.engines import onnx_session
from shared.engines.onnx import OnnxEngine
from shared.engines.onnx_graph import for_few_rows
from shared.engines.onnx_session import OnnxSession, SessionMaker, session_maker
from shared.errors import PolicyOutputError, WeightsError
from shared.files.buffer_pool import BufferPool
from shared.policy.weights import DecodedWeights, decode_weights, encode_weights
from tests.unit.shared.engines.test_onnx import X, external, graph

WIDE = 220_000
"""So many hidden units that the weights have more than 4 MB."""


def large_graph(**of_gemm: float) -> bytes:
    """``y = tanh(x wide^T + bias) narrow^T``, batch first; ``of_gemm`` are attributes of the first product."""
    nodes = [
        helper.make_node("Gemm", ["x", "wide", "bias"], ["h"], transB=1, **of_gemm),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "narrow"], ["y"], transB=1),
    ]
    initializers = [external("wide", (WIDE, 2)), external("bias", (WIDE,)), external("narrow", (2, WIDE))]
    return graph(*initializers, nodes=nodes)


def large_weights(seed: int) -> DecodedWeights:
    random = np.random.default_rng(seed)
    shapes = {"wide": (WIDE, 2), "bias": (WIDE,), "narrow": (2, WIDE)}
    return decode_weights(
        encode_weights({name: random.normal(0, 0.01, shape).astype(np.float32) for name, shape in shapes.items()})
    )


def expected(x: np.ndarray, weights: DecodedWeights, alpha: float = 1.0) -> np.ndarray:
    wide, bias, narrow = (weights[name].astype(np.float64) for name in ("wide", "bias", "narrow"))
    return np.tanh(alpha * (x @ wide.T) + bias) @ narrow.T


def engine_of(data: bytes, weights: DecodedWeights, rows: int = 1) -> OnnxEngine:
    return OnnxEngine(data, weights, batch_size=rows, measure_with=[np.zeros((rows, 2), np.float32)])


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """Return a list that grows with each call of the function ``name`` of ``owner``."""
    calls: list[int] = []
    function = getattr(owner, name)

    def call(*given: Any) -> Any:
        calls.append(1)
        return function(*given)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.fixture(autouse=True)
def _nothing_measured_before() -> Iterator[None]:
    session_maker.cache_clear()
    yield
    session_maker.cache_clear()


@pytest.fixture
def bound_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "_fastest_call_s", lambda *_: (1.0, 1.0))


@pytest.mark.usefixtures("bound_is_faster")
@pytest.mark.parametrize("rows", [1, 8])
def test_one_session_serves_every_version_with_the_outputs_of_its_own_session(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    engine = engine_of(large_graph(), large_weights(0), rows)
    shared = engine._session
    assert shared is not None
    assert shared.takes_weights
    x = np.random.default_rng(1).normal(0, 1, (rows, 2)).astype(np.float32)
    own = [OnnxEngine(large_graph(), large_weights(seed), batch_size=1) for seed in (1, 2)]
    monkeypatch.setattr(SessionMaker, "make", None)  # not called from here on
    for seed, other in zip((1, 2), own, strict=True):
        engine.load_weights(large_weights(seed))
        for _ in range(3):  # the first call is not bound
            (y,) = engine.run([x])
            np.testing.assert_allclose(y, other.run([x])[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(y, expected(x, large_weights(seed)), rtol=1e-4, atol=1e-4)
    assert engine._session is shared


@pytest.mark.usefixtures("bound_is_faster")
def test_the_last_good_version_stays_whole_while_and_after_the_next_is_loaded() -> None:
    """The engines share one session. Each reads its own buffer, which nothing overwrites before its engine ends."""
    pool, encoded = BufferPool(), [encode_weights(large_weights(seed)) for seed in range(3)]

    def read(seed: int) -> DecodedWeights:
        room = pool.take(len(encoded[seed]))
        room[:] = encoded[seed]
        return decode_weights(room.toreadonly())

    first = engine_of(large_graph(), read(0))
    before = [first.run([X[:1]])[0] for _ in range(2)][-1]
    second = first.twin()
    second.load_weights(read(1))
    assert second._session is first._session
    other = [second.run([X[:1]])[0] for _ in range(2)][-1]
    np.testing.assert_array_equal(first.run([X[:1]])[0], before)
    assert not np.array_equal(other, before)
    broken = dict(large_weights(2), wide=np.full((WIDE, 2), np.nan, np.float32))
    with pytest.raises(WeightsError):
        second.load_weights(broken)
    np.testing.assert_array_equal(second.run([X[:1]])[0], other)
    second.load_weights(read(2))
    np.testing.assert_array_equal(first.run([X[:1]])[0], before)
    assert len(pool.pieces) == 3
    read(0)
    assert len(pool.pieces) == 3, "the memory of the version that no engine has is used again"


@pytest.mark.parametrize(("own_s", "bound_s", "takes_weights"), [(0.8, 1.0, False), (0.95, 1.0, True), (1, 0.5, True)])
def test_a_clearly_faster_session_keeps_its_weights(
    monkeypatch: pytest.MonkeyPatch, own_s: float, bound_s: float, takes_weights: bool
) -> None:
    monkeypatch.setattr(onnx_session, "_fastest_call_s", lambda *_: (own_s, bound_s))
    engine = engine_of(large_graph(), large_weights(0))
    assert engine._session is not None
    assert engine._session.takes_weights is takes_weights
    engine.load_weights(large_weights(1))
    np.testing.assert_allclose(engine.run([X])[0], expected(X, large_weights(1)), rtol=1e-4, atol=1e-4)


def test_calls_are_measured_once_per_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = counted(monkeypatch, onnx_session, "_fastest_call_s")
    for rows in (2, 3, 2, 3):
        engine_of(large_graph(), large_weights(0), rows).run([X[:rows]])
    assert len(measured) == 2


@pytest.mark.parametrize("case", ["small weights", "many rows", "unmeasured"])
def test_other_sessions_have_their_own_weights(case: str) -> None:
    small = {"weight": np.ones(2, np.float32), "bias": np.ones(2, np.float32)}
    data, weights = (graph(), small) if case == "small weights" else (large_graph(), large_weights(0))
    rows = 9 if case == "many rows" else 1
    blank = None if case == "unmeasured" else [np.zeros((rows, 2), np.float32)]
    engine = OnnxEngine(data, weights, batch_size=rows, measure_with=blank)
    assert engine._session is not None
    assert not engine._session.takes_weights


def test_a_graph_that_does_not_run_with_its_weights_as_inputs_keeps_them() -> None:
    """It lists an initializer among its inputs, too: the input would exist twice."""
    model = onnx.load_model_from_string(large_graph())
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [WIDE]))
    model.ir_version = 10
    session = session_maker(model.SerializeToString(), ("wide", "bias", "narrow"), packs=False).fastest(
        large_weights(0), [X[:1]]
    )
    assert not session.takes_weights


@pytest.mark.usefixtures("bound_is_faster")
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_products_are_turned_for_few_rows_only_if_they_are_plain(alpha: float) -> None:
    data = large_graph(alpha=alpha)
    turned = onnx.load_model_from_string(for_few_rows(data, {"wide", "narrow"}))
    kinds = [node.op_type for node in turned.graph.node]
    assert kinds.count("Gemm") == (0 if alpha == 1 else 1)
    assert kinds.count("Transpose") == (4 if alpha == 1 else 2)
    engine = engine_of(data, large_weights(0))
    for rows in (1, 3, 3):
        np.testing.assert_allclose(
            engine.run([X[:rows]])[0], expected(X[:rows], large_weights(0), alpha), rtol=1e-4, atol=1e-4
        )


def compress() -> bytes:
    """Return a graph that keeps the rows whose first number is positive: the shape depends on the data."""
    nodes = [
        helper.make_node("Constant", [], ["axes"], value=helper.make_tensor("", TensorProto.INT64, [1], [1])),
        helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("", TensorProto.FLOAT, [], [0])),
        helper.make_node("ReduceMin", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["b"]),
        helper.make_node("Mul", ["x", "weight"], ["w"]),
        helper.make_node("Compress", ["w", "b"], ["y"], axis=0),
    ]
    return graph(external("weight", (2,)), nodes=nodes)


def test_calls_of_modules_are_bound_from_the_second_of_a_shape_on(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"weight": np.full(2, 2, np.float32), "bias": np.ones(2, np.float32)}
    engine, unbound = OnnxEngine(graph(), weights, bind=False), counted(monkeypatch, OnnxSession, "run")
    for rows in (1, 2, 3, 2, 1, 1):
        (y,) = engine.run([X[:rows]])
        np.testing.assert_array_equal(y, X[:rows] * 2 + 1)
        y[...] = 0
    assert len(unbound) == 3
    for wrong in ([X.astype(np.float64)], [X, X], [np.zeros((3, 4), np.float32)], []):
        with pytest.raises(PolicyOutputError):
            engine.run(wrong)
    np.testing.assert_array_equal(engine.run([X])[0], X * 2 + 1)


def test_a_module_may_return_another_shape_for_other_data() -> None:
    engine = OnnxEngine(compress(), {"weight": np.ones(2, np.float32)}, bind=False)
    for positive in ([1, 1, 1], [1, 1, 1], [1, -1, 1], [-1, -1, -1], [1, 1, 1]):
        x = np.array(positive, np.float32)[:, None] * np.array([2, 3], np.float32)
        np.testing.assert_array_equal(engine.run([x])[0], x[np.array(positive) > 0])
