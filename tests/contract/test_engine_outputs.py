"""Outputs of every engine are arrays of their own, of the promised dtypes, and inputs are never written to."""

from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.engines.eager import EagerEngine, TorchCompileEngine
from shared.engines.engine import Engine
from shared.engines.llvm import LlvmEngine
from shared.engines.onnx import OnnxEngine
from shared.errors import PolicyOutputError
from tests.support.script_archives import script_engine
from tests.support.small_graphs import f32, graph, nodes

DTYPES = [np.dtype(np.float32)]
Make = Callable[[nn.Module], Engine]

TORCH_ENGINES: Mapping[str, Make] = {
    "torchscript": lambda m: script_engine(m, dtypes=DTYPES),
    "eager": lambda m: EagerEngine(m, "", dtypes=DTYPES),
    "compile": lambda m: TorchCompileEngine(m, "", dtypes=DTYPES),
}
EVERY = [
    "torchscript",
    "eager",
    pytest.param("compile", marks=pytest.mark.slow),
]


class Passes(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0]]


class Transposes(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0].reshape(-1, 2, 2).transpose(1, 2)]


class Overwrites(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0].mul_(2.0)]


class OverwritesForSomeInputs(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = x.mul_(2.0)
        return [x]


class Reshapes(nn.Module):
    """Changes the shape of its input, and no number."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0].unsqueeze_(0)[0]]


class Widens(nn.Module):
    """Float64 for large numbers."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = x.to(torch.float64)
        return [x]


class Rounds(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = x.to(torch.int32)
        return [x]


class Imagines(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = torch.complex(x, x)
        return [x]


class HalvesPrecision(nn.Module):
    """numpy has no bfloat16."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = x.to(torch.bfloat16)
        return [x]


class Thins(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = x.to_sparse()
        return [x]


class Quantizes(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        if bool((x > 100).any()):
            x = torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)
        return [x]


OUTPUTS_THAT_VARY = (Widens, Rounds, Imagines, HalvesPrecision, Thins, Quantizes)


def _inputs(rows: int = 3) -> list[np.ndarray]:
    return [np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)]


def _engine(name: str, module: type[nn.Module]) -> Engine:
    return TORCH_ENGINES[name](module())


def _onnx(text: str) -> tuple[bytes, dict[str, np.ndarray]]:
    made = graph(nodes(text), inputs={"x": f32(4)}, outputs={"y": f32(4)})
    return made, {}


ALIASING: Mapping[str, Callable[[], Engine]] = {
    "torchscript": lambda: _engine("torchscript", Passes),
    "eager": lambda: _engine("eager", Passes),
    "onnx": lambda: OnnxEngine(*_onnx("Identity x -> y")),
    "onnx without bindings": lambda: OnnxEngine(*_onnx("Identity x -> y"), bind=False),
    "llvm": lambda: LlvmEngine(*_onnx("Identity x -> y")),
}


@pytest.mark.parametrize("name", ALIASING)
def test_an_input_that_is_returned_is_another_array(name: str) -> None:
    engine, inputs = ALIASING[name](), _inputs()
    before = inputs[0].copy()
    (output,), (again,) = engine.run(inputs), engine.run(inputs)
    assert not np.shares_memory(output, inputs[0])
    assert not np.shares_memory(output, again)
    output[...] = 7
    again[...] = 8
    np.testing.assert_array_equal(inputs[0], before)
    np.testing.assert_array_equal(engine.run(inputs)[0], before)
    assert (output == 7).all()


@pytest.mark.parametrize("module", [Overwrites, Reshapes, OverwritesForSomeInputs])
@pytest.mark.parametrize("name", EVERY)
def test_a_program_that_changes_its_input_gets_a_copy_and_is_an_output_error(
    name: str, module: type[nn.Module]
) -> None:
    engine, inputs = _engine(name, module), _inputs()
    inputs[0] += 1000
    before = inputs[0].copy()
    for _ in range(2):
        # Compiled code may write without a trace: to the copy, which is filled again.
        error = PolicyOutputError
        with suppress(error) if name == "compile" else pytest.raises(error, match="overwrote one of its inputs"):
            engine.run(inputs)
        np.testing.assert_array_equal(inputs[0], before)
    if module is OverwritesForSomeInputs:
        np.testing.assert_array_equal(engine.run(_inputs())[0], _inputs()[0])


@pytest.mark.parametrize("name", ["torchscript", "eager"])
def test_inputs_of_any_shapes_follow_each_other(name: str) -> None:
    engine = _engine(name, Passes)
    for shape in ((3, 4), (2, 4), (3, 4), (4,), (), (0, 4), (3, 4)):
        x = np.full(shape, 2.5, np.float32)
        np.testing.assert_array_equal(engine.run([x])[0], x)
    with pytest.raises(PolicyOutputError, match="float64"):
        engine.run([np.zeros((3, 4))])


@pytest.mark.parametrize("name", EVERY)
def test_views_become_contiguous(name: str) -> None:
    engine, inputs = _engine(name, Transposes), _inputs()
    (output,) = engine.run(inputs)
    assert output.flags.c_contiguous
    np.testing.assert_array_equal(output, inputs[0].reshape(-1, 2, 2).transpose(0, 2, 1))


@pytest.mark.parametrize("module", OUTPUTS_THAT_VARY)
@pytest.mark.parametrize("name", ["torchscript", "eager"])
def test_another_dtype_or_layout_for_some_inputs_is_an_output_error(name: str, module: type[nn.Module]) -> None:
    engine, inputs = _engine(name, module), _inputs()
    for _ in range(2):
        np.testing.assert_array_equal(engine.run(inputs)[0], inputs[0])
        with pytest.raises(PolicyOutputError):
            engine.run([inputs[0] + 1000])


def test_a_graph_whose_shape_depends_on_the_data_is_an_output_error() -> None:
    """Compress keeps the rows whose first number is positive."""
    text = "ReduceMax x axes -> m keepdims=0; Greater m zero -> b; Compress x b -> y axis=0"
    made = graph(
        nodes(text),
        inputs={"x": f32(4)},
        outputs={"y": f32(4)},
        constants={"axes": np.array([1]), "zero": np.zeros((), np.float32)},
    )
    engine = OnnxEngine(made, {})
    inputs = [np.ones((3, 4), np.float32)]
    np.testing.assert_array_equal(engine.run(inputs)[0], inputs[0])
    inputs[0][1] = -1
    with pytest.raises(PolicyOutputError):
        engine.run(inputs)
    inputs[0][1] = 1
    np.testing.assert_array_equal(engine.run(inputs)[0], inputs[0])
