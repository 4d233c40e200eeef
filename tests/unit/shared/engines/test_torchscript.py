import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.export.torchscript.canonical_archive import canonical_archive
from shared.engines.eager import EagerEngine, module_arrays
from shared.engines.torchscript import TorchScriptEngine, load_script_module
from shared.errors import PolicyOutputError, ProgramError, WeightsError
from shared.policy.probe import compare, compute_probe, make_inputs
from shared.policy.program_digest import program_digest
from shared.policy.weights import have_equal_arrays
from shared.scripting.scripting import save_archive, save_program, script
from tests.support.script_archives import script_engine
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy


@pytest.fixture(scope="module")
def archive() -> bytes:
    return save_archive(script(TinyPolicy().eval()))


@pytest.mark.parametrize("save", [save_archive, save_program])
def test_an_archive_with_values_or_without_acts_with_the_weights_it_is_given(
    save: Callable[[torch.jit.ScriptModule], bytes],
) -> None:
    policy = TinyPolicy().eval()
    data = save(script(policy))
    engine = TorchScriptEngine.from_bytes(data, module_arrays(policy))
    probe = compute_probe(policy, TINY_SIGNATURE)
    for copy in (engine, engine.twin()):
        compare(probe.outputs, copy.run(probe.inputs), TINY_SIGNATURE, 1e-6, 1e-6)
        assert copy.has_weights(module_arrays(policy))
    assert engine.kind == "torchscript"
    assert engine.program_digest == program_digest("torchscript", data)


def test_an_archive_without_values_is_the_same_for_all_weights_and_leaves_the_module_as_it_was() -> None:
    one, other = (script(TinyPolicy().eval()) for _ in range(2))
    before = {name: array.copy() for name, array in module_arrays(one).items()}
    assert canonical_archive(save_program(one)) == canonical_archive(save_program(other))
    assert have_equal_arrays(module_arrays(one), before)
    plain = torch.jit.load(io.BytesIO(save_program(one)))
    outputs = plain([torch.from_numpy(array) for array in make_inputs(TINY_SIGNATURE, 3, 0)])
    assert any(output.isnan().any() for output in outputs), "weights that nobody gave cannot be mistaken for some"


def test_an_archive_takes_no_memory_for_shapes_that_the_weights_do_not_have() -> None:
    """One number that stands for 2^50 takes 4 bytes."""
    module = script(TinyPolicy().eval())
    name, parameter = next(iter(module.named_parameters()))
    weights = module_arrays(module)
    parameter.data = torch.zeros(()).expand(2**25, 2**25)
    with pytest.raises(WeightsError, match=name):
        TorchScriptEngine.from_bytes(save_archive(module), weights)


@pytest.mark.parametrize("save", [save_archive, save_program])
def test_loads_where_gradients_are_off_and_takes_new_weights_later(
    save: Callable[[torch.jit.ScriptModule], bytes],
) -> None:
    with torch.inference_mode():
        module, _ = load_script_module(save(script(TinyPolicy().eval())), module_arrays(TinyPolicy()))
    assert not any(tensor.is_inference() for tensor in (*module.parameters(), *module.buffers()))
    engine = TorchScriptEngine(module, "")
    other = TinyPolicy().eval()
    engine.load_weights(module_arrays(other))
    probe = compute_probe(other, TINY_SIGNATURE)
    compare(probe.outputs, engine.run(probe.inputs), TINY_SIGNATURE, 1e-6, 1e-6)


def test_unloadable_archives_are_program_errors(archive: bytes) -> None:
    for data in (b"", b"not a program", archive[:-100], archive[: len(archive) // 2]):
        with pytest.raises(ProgramError):
            TorchScriptEngine.from_bytes(data, {})


def test_mutants_load_or_are_program_errors(archive: bytes) -> None:
    generator = np.random.default_rng(0)
    refused, weights = 0, module_arrays(TinyPolicy())
    for _ in range(150):
        mutant = bytearray(archive)
        for at in generator.integers(0, len(archive), 4):
            mutant[at] ^= int(generator.integers(1, 256))
        try:
            TorchScriptEngine.from_bytes(bytes(mutant), weights)
        except (ProgramError, WeightsError):
            refused += 1
    assert refused > 50


class Raises(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0] @ inputs[1]]


@pytest.mark.parametrize("engine_type", ["eager", "torchscript"])
def test_exceptions_of_a_policy_are_mapped(engine_type: str) -> None:
    module = Raises()
    engine = EagerEngine(module, "") if engine_type == "eager" else script_engine(module)
    with pytest.raises(PolicyOutputError, match="RuntimeError") as caught:
        engine.run(make_inputs(TINY_SIGNATURE, 3, 0))
    assert isinstance(caught.value.__cause__, RuntimeError)


class Aliases(nn.Module):
    """Returns an input, a weight, and one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        rows = inputs[0].shape[0]
        return [inputs[0], self.bias.expand(rows), inputs[1].t(), inputs[1].t()]


@pytest.mark.parametrize("engine_type", ["eager", "torchscript"])
def test_outputs_alias_neither_inputs_nor_weights_nor_each_other(engine_type: str) -> None:
    module = Aliases()
    engine = EagerEngine(module, "") if engine_type == "eager" else script_engine(module)
    inputs = make_inputs(TINY_SIGNATURE, 3, 0)
    outputs = engine.run(inputs)
    for output in outputs:
        output[...] = 7
    np.testing.assert_array_equal(engine.run(inputs)[1], np.zeros(3))
    assert not (inputs[0] == 7).any()
    assert outputs[2].flags.c_contiguous


class Dropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.dropout(inputs[0])]


def test_runs_in_eval_mode() -> None:
    engine = EagerEngine(Dropout().train(), "")
    inputs = make_inputs(TINY_SIGNATURE, 64, 0)
    np.testing.assert_array_equal(engine.run(inputs)[0], inputs[0])


def test_non_persistent_buffers_are_weights() -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("left_out", torch.zeros(2), persistent=False)
    assert module_arrays(module).keys() == {"kept", "left_out"}
