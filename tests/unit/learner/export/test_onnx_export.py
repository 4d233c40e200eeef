import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from learner.export.onnx_export import export_onnx
from learner.export.policy_export import PolicyExporter, policy_interface
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.engines.eager import module_tensors
from shared.engines.onnx import OnnxEngine
from shared.errors import ExportError
from shared.policy.probe import compare, compute_probe, decode_probe, make_inputs
from shared.policy.signature import PolicySignature, acting_signature
from shared.policy.weights import encode_weights, tensor_places
from tests.support.agent_policies import ACTIONS, VECTOR
from tests.support.policies import make_version
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy

WITH_STATE = acting_signature(TINY_SIGNATURE.observation, TINY_SIGNATURE.action, state=[(("h",), (8,)), (("c",), (8,))])


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module_tensors(module).items()}


def export(module: nn.Module, signature: PolicySignature = TINY_SIGNATURE) -> bytes:
    example = [torch.from_numpy(array) for array in make_inputs(signature, 3, seed=0)]
    places = tensor_places(encode_weights(arrays(module)))
    return export_onnx(module.eval(), policy_interface(signature, example), places)


class WithState(nn.Module):
    """A head around a recurrent core."""

    def __init__(
        self, core: nn.Module, call: Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.core = core
        self.head = nn.Linear(8, 3)
        self.call = call

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        h, c = self.call(self.core, inputs[0], inputs[1], inputs[2])
        logits = self.head(h)
        return [(logits + inputs[3]).argmax(-1), logits.logsumexp(-1), logits.sum(-1), h, c]


def lstm(core: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    _, (next_h, next_c) = core(x.unsqueeze(1), (h.unsqueeze(0), c.unsqueeze(0)))
    return next_h.squeeze(0), next_c.squeeze(0)


CORES = {
    "LSTM": WithState(nn.LSTM(4, 8, batch_first=True), lstm),
    "LSTMCell": WithState(nn.LSTMCell(4, 8), lambda core, x, h, c: core(x, (h, c))),
    "GRUCell": WithState(nn.GRUCell(4, 8), lambda core, x, h, c: (core(x, h), c * 1.0)),
}


@pytest.mark.parametrize("core", CORES)
def test_recurrent_modules_of_torch_are_exported(core: str) -> None:
    policy = CORES[core].eval()
    engine = OnnxEngine(export(policy, WITH_STATE), arrays(policy))
    for batch_size in (1, 3, 64):
        probe = compute_probe(policy, WITH_STATE, batch_size=batch_size)
        compare(probe.outputs, engine.run(probe.inputs), WITH_STATE, 1e-5, 1e-5)


def test_graph_is_small_and_names_no_file_of_this_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = export(TinyPolicy())
    assert capfd.readouterr() == ("", "")
    assert len(graph) < 5000
    for name in (b"/", b".py", b"stack_trace", b"tests", b"forward"):
        assert name not in graph.replace(b"weights.safetensors", b"")
    (tmp_path / "policy.onnx").write_bytes(graph)
    (tmp_path / "weights.safetensors").write_bytes(encode_weights(arrays(TinyPolicy())))
    onnx.checker.check_model(tmp_path / "policy.onnx", full_check=True)


def test_no_constant_is_cast_at_every_call() -> None:
    """Clamping exports as bounds that are cast to the type that they have."""
    policy = ActingPolicy(VECTOR, ACTIONS["discrete"], NetworkConfig(hidden_sizes=(8,), normalize_observations=True))
    model = onnx.load_model_from_string(export(policy, policy.signature))
    kinds = [node.op_type for node in model.graph.node]
    assert "Clip" in kinds
    assert "CastLike" not in kinds


@pytest.mark.slow
def test_graph_is_the_same_for_all_weights_and_in_every_process() -> None:
    here = export(TinyPolicy())
    code = (
        "import sys\n"
        "from tests.unit.learner.export.test_onnx_export import export, TinyPolicy\n"
        "sys.stdout.buffer.write(export(TinyPolicy()))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert there.stdout == here
    assert there.stderr == b""


def test_any_onnx_runtime_opens_it_in_its_directory(tmp_path: Path) -> None:
    policy = TinyPolicy()
    version = make_version(PolicyExporter(policy, TINY_SIGNATURE), policy.state_dict())
    for name, data in version.files.items():
        (tmp_path / name).write_bytes(data)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    probe = decode_probe(version.files["probe.safetensors"], TINY_SIGNATURE)
    found = session.run(
        list(TINY_SIGNATURE.output_names), dict(zip(TINY_SIGNATURE.input_names, probe.inputs, strict=True))
    )
    compare(probe.outputs, found, TINY_SIGNATURE, 1e-5, 1e-5)


def test_next_state_has_its_own_name() -> None:
    graph = onnx.load_model_from_string(export(CORES["LSTMCell"], WITH_STATE)).graph
    assert [value.name for value in graph.input] == ["observation", "state.h", "state.c", "noise"]
    assert [value.name for value in graph.output] == ["action", "log_prob", "value", "next_state.h", "next_state.c"]


class HoldsATensor(TinyPolicy):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = torch.tensor([0.5])  # neither a parameter nor a buffer

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = super().forward(inputs)
        return [action, log_prob, value * self.temperature]


def test_float_that_is_no_weight_is_refused() -> None:
    with pytest.raises(ExportError, match="make temperature part of the weights with register_buffer"):
        export(HoldsATensor())


class DecidesOnData(TinyPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = super().forward(inputs)
        if inputs[0].sum() > 0:
            value = -value
        return [action, log_prob, value]


def test_exporters_error_becomes_an_export_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"torch\.onnx\.export") as caught:
        export(DecidesOnData())
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")
