"""The engine around compiled code: arrays, errors, weights and threads."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.engines.llvm import LlvmEngine
from shared.engines.row_compiler.emitter import LANES
from shared.engines.row_compiler.row_code import blocks_and_singles
from shared.errors import PolicyOutputError, ProgramError, ProgramUnsupported, WeightsError
from tests.support.small_graphs import BATCH_SIZES, Spec, f32, graph, node, nodes, numbers

INPUTS: dict[str, Spec] = {"x": f32(5), "count": ("int64", ()), "mask": ("bool", (3,))}
OUTPUTS: dict[str, Spec] = {"best": ("int64", ()), "log_prob": f32(1), "all": f32(3)}


def policy() -> bytes:
    """Return a graph of a linear layer plus a count, masked, its argmax and its log-probability."""
    return graph(
        nodes(
            "Gemm x weight bias -> logits; Cast count -> float_count to=1; "
            "Unsqueeze float_count axis -> column; Add logits column -> moved; "
            "Where mask moved low -> masked; LogSoftmax masked -> all; ArgMax all -> place axis=1; "
            "GatherElements all place -> log_prob axis=1; Squeeze place axis -> best"
        ),
        inputs=INPUTS,
        outputs=OUTPUTS,
        weights=weights(),
        constants={"axis": np.array([1]), "low": np.array([-1e9], np.float32)},
    )


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in _SHAPES.items()}


_SHAPES = {"weight": (5, 3), "bias": (3,)}
_GUARD = 256  # bytes


def rows(count: int, seed: int = 0) -> list[np.ndarray]:
    return [numbers(spec, count, seed + i) for i, spec in enumerate(INPUTS.values())]


def _same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))


class _Guarded:
    """Arrays in one block of memory, each between guards full of NaN."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        starts = np.cumsum([_GUARD, *(-(-array.nbytes // _GUARD) * _GUARD + _GUARD for array in arrays)]).tolist()
        memory = np.full(starts[-1] + _GUARD, 0xFF, np.uint8)
        self._memory = memory[-memory.ctypes.data % _GUARD :][: starts[-1]]
        self._is_guard = np.ones(self._memory.size, bool)
        self.arrays = []
        for start, array in zip(starts, arrays, strict=False):
            place = slice(start, start + array.nbytes)
            self._is_guard[place] = False
            self.arrays.append(self._memory[place].view(array.dtype).reshape(array.shape))
            self.arrays[-1][...] = array

    def is_whole(self) -> bool:
        return bool(np.all(self._memory[self._is_guard] == 0xFF))


def attention() -> tuple[bytes, dict[str, np.ndarray], dict[str, Spec], dict[str, Spec]]:
    """Return a graph of attention whose widths fill no vector, its weights, inputs and outputs."""
    inputs, outputs = {"x": f32(3, 5)}, {"y": f32(4, 5), "z": f32(3, 1)}
    made = nodes(
        "LayerNormalization x g b -> n; Softmax t -> p; MatMul p n -> q; MatMul q w -> o; Add o b -> s; "
        "ReduceMax s axis -> m; Concat s m -> y axis=1; ReduceSum n last -> z"
    )
    made.insert(1, node("Einsum", "n n", "t", equation="bik,bjk->bij"))
    generator = np.random.default_rng(0)
    shapes = {"g": (5,), "b": (5,), "w": (5, 5)}
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    constants = {"axis": np.array([1]), "last": np.array([-1])}
    return graph(made, inputs=inputs, outputs=outputs, weights=arrays, constants=constants), arrays, inputs, outputs


@pytest.mark.parametrize("made", [(policy(), weights(), INPUTS, OUTPUTS), attention()], ids=["policy", "attention"])
def test_never_reads_or_writes_outside_of_its_arrays(
    made: tuple[bytes, dict[str, np.ndarray], dict[str, Spec], dict[str, Spec]],
) -> None:
    data, arrays, inputs_of, outputs_of = made
    engine = LlvmEngine(data, arrays)
    compiled = engine._compiled
    block = compiled.make_block()
    compiled.pack(arrays, block)
    for count in range(1, 41):
        blocks, singles = blocks_and_singles(count)
        room = LANES * blocks + singles
        given = [numbers(spec, count, i) for i, spec in enumerate(inputs_of.values())]
        read = [block, *(np.resize(array, (room, *array.shape[1:])) for array in given)]
        written = [np.zeros((room, *shape), dtype) for dtype, shape in outputs_of.values()]
        guarded = _Guarded([*read, np.zeros(compiled.scratch_floats, np.float32), *written])
        packed, *inputs = guarded.arrays[: len(read)]
        scratch, *outputs = guarded.arrays[len(read) :]
        places = [array.ctypes.data for array in (packed, scratch, *inputs, *outputs)]
        table = np.array([blocks, singles, *places], np.int64)
        for is_brief in (True, False):
            for output in outputs:
                output[...] = 0
            compiled.machine_code(is_brief=is_brief).call(table.ctypes.data)
            assert guarded.is_whole()
            assert _same([packed, *inputs], read), "only read"
            assert _same([array[:count] for array in outputs], engine.run(given))


def test_nan_stays_in_its_row_of_attention() -> None:
    data, arrays, inputs_of, _ = attention()
    engine = LlvmEngine(data, arrays)
    for count in (1, 3, 16, 20):
        x = numbers(inputs_of["x"], count)
        expected = engine.run([x])
        x[count - 1, 0, 2] = np.nan
        found = engine.run([x])
        assert all(np.isnan(array[-1]).any() for array in found)
        assert _same([array[:-1] for array in found], [array[:-1] for array in expected])


@pytest.mark.parametrize("count", range(1, 41))
def test_inputs_and_outputs_keep_to_their_rows(count: int) -> None:
    """Check the arrays of the calls: rows beyond a full block do not influence any output."""
    engine = LlvmEngine(policy(), weights())
    inputs = rows(count)
    first = engine.run(inputs)
    call = engine._calls[count]
    for buffer, array in zip(call.inputs, inputs, strict=True):
        np.testing.assert_array_equal(buffer, array)
        beyond = buffer.base
        assert beyond is not None
        beyond[count:] = 1  # whatever lies there
    assert _same(engine.run(inputs), first)
    assert _same([array[:1] for array in engine.run(inputs)], engine.run([array[:1] for array in inputs]))


def test_a_row_has_the_same_bits_whatever_the_batch() -> None:
    engine = LlvmEngine(policy(), weights())
    whole = engine.run(rows(64))
    for count in BATCH_SIZES:
        assert _same(engine.run([array[:count] for array in rows(64)]), [array[:count] for array in whole])


def test_an_empty_batch_gives_empty_outputs() -> None:
    found = LlvmEngine(policy(), weights()).run(rows(0))
    assert [(array.shape, str(array.dtype)) for array in found] == [((0, *s), d) for d, s in OUTPUTS.values()]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, count, mask: [x.astype(np.float64), count, mask],
        lambda x, count, mask: [x, count.astype(np.int32), mask],
        lambda x, count, mask: [x, count, mask.astype(np.uint8)],
        lambda x, count, mask: [x[:, :4], count, mask],
        lambda x, count, mask: [x[:, :1], count, mask],
        lambda x, count, mask: [x, count, mask[:1]],
        lambda x, count, mask: [x, count[:1], mask],
        lambda x, count, mask: [x[:, 0], count, mask],
        lambda x, count, mask: [x[..., None], count, mask],
        lambda x, count, mask: [x[0, 0], count, mask],
        lambda x, count, mask: [x, count],
        lambda x, count, mask: [x, count, mask, x],
        lambda x, count, mask: [],
    ],
)
@pytest.mark.parametrize("is_seen_before", [False, True])
def test_inputs_of_another_dtype_or_shape_are_refused(spoil: object, is_seen_before: bool) -> None:
    engine = LlvmEngine(policy(), weights())
    inputs = rows(3)
    before = engine.run(inputs) if is_seen_before else None
    with pytest.raises(PolicyOutputError, match="do not fit the program"):
        engine.run(spoil(*inputs))  # type: ignore[operator]
    assert before is None or _same(engine.run(inputs), before)


def _sum_of_two() -> LlvmEngine:
    specs: dict[str, Spec] = {"x": f32(3), "noise": f32(3)}
    made = nodes("Add x noise -> y")
    return LlvmEngine(graph(made, inputs=specs, outputs={"y": f32(3)}), {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, noise: [x.astype(np.float64), noise],
        lambda x, noise: [x, noise.astype(np.float64)],
        lambda x, noise: [x[:, :1], noise],
        lambda x, noise: [x, noise[:, :1]],
        lambda x, noise: [x, noise[:1]],
        lambda x, noise: [x],
        lambda x, noise: [x, noise, noise],
    ],
)
def test_two_inputs_are_checked_as_strictly(spoil: object) -> None:
    engine = _sum_of_two()
    x, noise = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    assert _same(engine.run([x, noise]), [x + noise])
    with pytest.raises(PolicyOutputError, match="do not fit the program"):
        engine.run(spoil(x, noise))  # type: ignore[operator]
    assert _same(engine.run([noise, noise]), [noise + noise])


def test_outputs_are_new_arrays() -> None:
    """Check that later calls do not write to earlier outputs, in bounds or not."""
    x = np.ones((5, 3), np.float32)
    engine = _sum_of_two()
    given = engine.run([x, x])[0]
    engine.run([np.full_like(x, 7.0), x])
    assert (given == 2.0).all()
    given[...] = 9.0
    assert _same(engine.run([x, x]), [x + x])


@pytest.mark.parametrize("count", [1, 3, 16, 20])
def test_nan_stays_in_its_row(count: int) -> None:
    engine = LlvmEngine(policy(), weights())
    inputs = [rows(count)[0], rows(count)[1], np.ones((count, 3), bool)]
    expected = engine.run(inputs)
    inputs[0][count - 1, 2] = np.nan
    found = engine.run(inputs)
    assert np.isnan(found[1][-1]).all()
    assert np.isnan(found[2][-1]).all()
    assert _same([array[:-1] for array in found], [array[:-1] for array in expected])


def test_twins_answer_with_their_own_weights_while_others_run() -> None:
    """Run one engine on a thread while twins load weights and run on another, as in an actor."""
    inputs = rows(19)
    expected = [LlvmEngine(policy(), weights(seed)).run(inputs) for seed in range(4)]
    acting = LlvmEngine(policy(), weights())

    def act(_: int) -> bool:
        return _same(acting.run(inputs), expected[0])

    with ThreadPoolExecutor(1) as pool:
        answers = pool.map(act, range(500))
        for turn in range(60):
            seed = 1 + turn % 3
            twin = acting.twin()
            twin.load_weights(weights(seed))
            for _ in range(5):
                assert _same(twin.run(inputs), expected[seed])
        assert all(answers)


def test_a_twin_that_is_given_bad_weights_changes_nothing() -> None:
    engine = LlvmEngine(policy(), weights())
    before = engine.run(rows(3))
    for wrong in ({}, {**weights(), "bias": np.zeros(4, np.float32)}, {**weights(), "bias": np.full(3, np.nan)}):
        with pytest.raises(WeightsError):
            engine.twin().load_weights(wrong)
    assert _same(engine.run(rows(3)), before)


def test_serves_more_batch_sizes_than_it_keeps_arrays_for() -> None:
    engine = LlvmEngine(policy(), weights())
    whole = engine.run(rows(64))
    for count in (*range(1, 30), 5):
        assert _same(engine.run([array[:count] for array in rows(64)]), [array[:count] for array in whole])
    assert len(engine._calls) <= 8


def _layer(width: int) -> tuple[bytes, dict[str, np.ndarray]]:
    given = {"w": np.zeros((512, width), np.float32)}
    made = nodes("MatMul x w -> y")
    return graph(made, inputs={"x": f32(512)}, outputs={"y": f32(width)}, weights=given), given


def test_matrices_too_large_for_the_cache_are_unsupported() -> None:
    assert len(LlvmEngine(*_layer(256)).run([np.ones((2, 512), np.float32)])) == 1
    with pytest.raises(ProgramUnsupported, match="a weight of 139264 numbers; at most 131072"):
        LlvmEngine(*_layer(257))


def test_malformed_graphs_and_missing_weights_are_refused() -> None:
    with pytest.raises(ProgramError) as caught:
        LlvmEngine(b"not a graph", weights())
    assert not isinstance(caught.value, ProgramUnsupported)
    with pytest.raises(WeightsError, match=r"missing \['bias'\]"):
        LlvmEngine(policy(), {"weight": weights()["weight"]})
    with pytest.raises(ProgramError, match="has 3 outputs"):
        LlvmEngine(policy(), weights(), outputs=[3])


def test_other_outputs_are_not_computed() -> None:
    engine, whole = LlvmEngine(policy(), weights(), outputs=[0]), LlvmEngine(policy(), weights())
    assert len(engine._compiled.program.steps) < len(whole._compiled.program.steps)
    assert _same(engine.run(rows(5)), whole.run(rows(5))[:1])
    assert engine.program_digest == whole.program_digest


def test_needs_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, shared.engines.llvm, numpy as np\n"
        "from onnx import TensorProto, helper\n"
        "info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ['batch', 2]) for n in 'xy']\n"
        "made = helper.make_graph([helper.make_node('Tanh', ['x'], ['y'])], 'policy', info[:1], info[1:])\n"
        "model = helper.make_model(made, opset_imports=[helper.make_opsetid('', 20)])\n"
        "engine = shared.engines.llvm.LlvmEngine(model.SerializeToString(), {})\n"
        "assert engine.run([np.zeros((3, 2), np.float32)])[0].tolist() == [[0.0] * 2] * 3\n"
        "assert not {'torch', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
