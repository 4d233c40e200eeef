import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.engines.onnx import OnnxEngine
from shared.engines.onnx_session import OnnxSession, SessionMaker, session_maker
from shared.errors import PolicyOutputError, ProgramError, WeightsError
from shared.files.buffer_pool import BufferPool
from shared.policy.weights import decode_weights, encode_weights


def external(name: str, shape: tuple[int, ...], location: str = "weights.safetensors") -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", 0), ("length", 4 * int(np.prod(shape)))):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph(*initializers: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> bytes:
    """``y = x * weight + bias``, batch first."""
    made = helper.make_graph(
        nodes or [helper.make_node("Mul", ["x", "weight"], ["m"]), helper.make_node("Add", ["m", "bias"], ["y"])],
        "policy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        initializer=list(initializers) or [external("weight", (2,)), external("bias", (2,))],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def weights(scale: float = 2.0) -> dict[str, np.ndarray]:
    return {"weight": np.full(2, scale, np.float32), "bias": np.ones(2, np.float32), "count": np.array(3)}


X = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_extra_weights_are_ignored() -> None:
    (y,) = OnnxEngine(graph(), weights()).run([X])
    np.testing.assert_array_equal(y, X * 2 + 1)


def test_new_weights_take_effect_at_batch_sizes_seen_before_and_new_ones() -> None:
    engine = OnnxEngine(graph(), weights())
    engine.run([X])
    engine.load_weights(weights(3.0))
    for x in (X, X[:1].copy()):
        np.testing.assert_array_equal(engine.run([x])[0], x * 3 + 1)


def test_serves_more_batch_sizes_than_it_keeps_buffers_for() -> None:
    engine = OnnxEngine(graph(), weights())
    for batch_size in (*range(1, 30), 5):
        x = np.full((batch_size, 2), batch_size, np.float32)
        np.testing.assert_array_equal(engine.run([x])[0], x * 2 + 1)


def test_an_input_of_another_dtype_or_shape_is_refused() -> None:
    engine = OnnxEngine(graph(), weights())
    engine.run([X])
    for inputs in ([X.astype(np.float64)], [np.zeros((3, 4), np.float32)], [X, X]):
        with pytest.raises(PolicyOutputError):
            engine.run(inputs)
    np.testing.assert_array_equal(engine.run([X])[0], X * 2 + 1)


@pytest.mark.parametrize(
    "data", [b"not a graph", b"\x00" * 100, graph()[:-40], graph()[40:]], ids=["text", "0", "head", "tail"]
)
def test_malformed_graphs_are_program_errors(data: bytes) -> None:
    with pytest.raises(ProgramError):
        OnnxEngine(data, weights())


def test_a_graph_of_unknown_operators_is_a_program_error() -> None:
    with pytest.raises(ProgramError, match="ONNX Runtime"):
        OnnxEngine(graph(nodes=[helper.make_node("NoSuchOperator", ["x"], ["y"])]), weights())


def test_missing_initializers_are_named_and_never_read_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(1000))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"missing \['bias'\]"):
        OnnxEngine(graph(), {"weight": np.zeros(2, np.float32)})


def test_initializers_of_another_shape_are_refused() -> None:
    with pytest.raises((WeightsError, ProgramError)):
        OnnxEngine(graph(), {**weights(), "bias": np.zeros(3, np.float32)})


def test_a_graph_that_reads_files_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(bytes(1000))
    monkeypatch.chdir(tmp_path)
    constant = helper.make_node("Constant", [], ["bias"])
    attribute = constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(external("", (2,), "secret"))
    reading = [constant, helper.make_node("Mul", ["x", "weight"], ["m"]), helper.make_node("Add", ["m", "bias"], ["y"])]
    with pytest.raises(ProgramError, match="refers to files"):
        OnnxEngine(graph(external("weight", (2,)), nodes=reading), weights())


def test_other_outputs_are_not_computed() -> None:
    """Keep the first output: the second one fails, and a branch reads a value that nothing else reads."""
    branch = helper.make_graph([helper.make_node("Identity", ["m"], ["chosen"])], "b", [], [_info("chosen")])
    either = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    five = helper.make_node("Constant", [], ["five"], value=helper.make_tensor("", TensorProto.INT64, [1], [5]))
    nodes = [yes, five, helper.make_node("Mul", ["x", "weight"], ["m"]), either]
    nodes += [helper.make_node("Add", ["x", "bias"], ["s"]), helper.make_node("Gather", ["s", "five"], ["z"])]
    model = onnx.load_model_from_string(graph(nodes=nodes))
    model.graph.output.append(_info("z"))
    whole = model.SerializeToString()
    with pytest.raises(PolicyOutputError):
        OnnxEngine(whole, weights()).run([X])
    engine = OnnxEngine(whole, weights(), outputs=[0])
    (y,) = engine.run([X])
    np.testing.assert_array_equal(y, X * 2)
    engine.load_weights(weights(3.0))
    np.testing.assert_array_equal(engine.run([X])[0], X * 3)
    for wrong in ({"weight": np.zeros(2, np.float32)}, {**weights(), "bias": np.full(2, np.nan, np.float32)}):
        with pytest.raises(WeightsError):  # of the whole graph, all the same
            OnnxEngine(whole, wrong, outputs=[0])
    with pytest.raises(ProgramError, match="has 2 outputs"):
        OnnxEngine(whole, weights(), outputs=[2])


def _info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])


def test_needs_no_torch() -> None:
    code = (
        "import sys, shared.engines.load, shared.engines.onnx, numpy as np\n"
        "from tests.unit.shared.engines.test_onnx import graph, weights, X\n"
        "shared.engines.onnx.OnnxEngine(graph(), weights()).run([X])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sessions_of_known_graphs_are_made_of_the_optimised_one_and_answer_alike() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Mul", ["same", "weight"], ["y"])]
    known = graph(external("weight", (2,)), nodes=nodes)
    maker = session_maker(known, ("weight",), packs=True)
    engine = OnnxEngine(known, weights())
    assert len(onnx.load_model_from_string(maker._graph).graph.node) == 1
    for factor in (3.0, 4.0):
        engine.load_weights(weights(factor))
        np.testing.assert_array_equal(engine.run([X])[0], X * weights(factor)["weight"])
    assert session_maker(known, ("weight",), packs=True) is maker


@pytest.mark.parametrize(("batch_size", "packs"), [(None, True), (1, False), (2, True)])
def test_large_weights_are_packed_for_batches_of_several_rows(batch_size: int | None, packs: bool) -> None:
    hidden = 300_000
    random = np.random.default_rng(0)
    wide, narrow = (random.standard_normal(shape).astype(np.float32) for shape in ((2, hidden), (hidden, 2)))
    nodes = [helper.make_node("MatMul", ["x", "wide"], ["h"]), helper.make_node("MatMul", ["h", "narrow"], ["y"])]
    large = graph(external("wide", wide.shape), external("narrow", narrow.shape), nodes=nodes)
    engine = OnnxEngine(large, {"wide": wide, "narrow": narrow}, batch_size=batch_size)
    assert _packs(engine) is packs
    for rows in (1, 3):
        (y,) = engine.run([X[:rows]])
        np.testing.assert_allclose(y, X[:rows] @ wide @ narrow, rtol=1e-3, atol=1.0)
    small = OnnxEngine(graph(), weights(), batch_size=1)
    assert _packs(small)


def _packs(engine: OnnxEngine) -> bool:
    assert engine._session is not None
    try:
        return bool(
            engine._session.session.get_session_options().get_session_config_entry("session.disable_prepacking") != "1"
        )
    except RuntimeError:  # nothing is said of it
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes a file")
def test_optimising_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    chain = (("Identity", ["x"], ["same"]), ("Neg", ["same"], ["negative"]), ("Mul", ["negative", "weight"], ["y"]))
    nodes = [helper.make_node(*each) for each in chain]
    known = graph(external("weight", (2,)), nodes=nodes)
    OnnxEngine(known, weights())
    assert session_maker(known, ("weight",), packs=True)._graph is not known, "it was optimised"


def test_constants_computed_from_weights_follow_new_weights() -> None:
    nodes = [helper.make_node("Exp", ["weight"], ["scale"]), helper.make_node("Mul", ["x", "scale"], ["y"])]
    known = graph(external("weight", (2,)), nodes=nodes)
    engine = OnnxEngine(known, weights())
    assert session_maker(known, ("weight",), packs=True)._graph is known, "ONNX Runtime folds what it knows"
    for factor in (0.5, 2.0):
        engine.load_weights(weights(factor))
        np.testing.assert_allclose(engine.run([X])[0], X * np.exp(weights(factor)["weight"]), rtol=1e-6)


def test_weights_that_may_change_are_copied_and_views_of_bytes_are_not() -> None:
    engine = OnnxEngine(graph(), weights())
    mine = weights(3.0)
    engine.load_weights(mine)
    mine["weight"][:] = 0
    np.testing.assert_array_equal(engine.run([X])[0], X * 3 + 1)
    theirs = decode_weights(encode_weights(weights(5.0)))
    engine.load_weights(theirs)
    assert engine._weights["weight"] is theirs["weight"]
    np.testing.assert_array_equal(engine.run([X])[0], X * 5 + 1)


def test_views_of_pooled_memory_are_not_copied_and_keep_it_in_use() -> None:
    memory = BufferPool()
    encoded = encode_weights(weights(3.0))
    room = memory.take(len(encoded))
    room[:] = encoded
    theirs = decode_weights(room.toreadonly())
    engine = OnnxEngine(graph(), weights())
    engine.load_weights(theirs)
    assert engine._weights["weight"] is theirs["weight"]
    del room, theirs
    memory.take(len(encoded))[:] = bytes(len(encoded))
    np.testing.assert_array_equal(engine._weights["weight"], weights(3.0)["weight"])


def test_old_session_is_freed_before_a_new_one_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    first = OnnxEngine(graph(), weights())
    engine = first.twin()
    engine.load_weights(weights(3.0))
    old, made = weakref.ref(engine._session), []

    def make(maker: SessionMaker, values: dict[str, np.ndarray]) -> OnnxSession:
        made.append(old() is None)
        return make_session(maker, values)

    make_session = SessionMaker.make
    monkeypatch.setattr(SessionMaker, "make", make)
    engine.load_weights(weights(4.0))
    assert made == [True]
    np.testing.assert_array_equal(engine.run([X])[0], X * 4 + 1)
    np.testing.assert_array_equal(first.run([X])[0], X * 2 + 1)


def test_engine_recovers_after_a_session_could_not_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxEngine(graph(), weights())
    with monkeypatch.context() as failing:
        failing.setattr(SessionMaker, "make", _fails)
        with pytest.raises(ProgramError, match="no memory"):
            engine.load_weights(weights(3.0))
    with pytest.raises(PolicyOutputError, match="load weights again"):
        engine.run([X])
    engine.load_weights(weights(4.0))
    np.testing.assert_array_equal(engine.run([X])[0], X * 4 + 1)


def _fails(_maker: SessionMaker, _weights: dict[str, np.ndarray]) -> None:
    raise ProgramError("no memory")
