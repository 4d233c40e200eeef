"""Number of compilations by torch.compile in an actor."""

import pytest
import torch
from torch._dynamo.utils import counters

from shared.engines.eager import TorchCompileEngine, module_tensors
from shared.engines.engine import EngineKind
from shared.errors import PolicyOutputError
from shared.policy.probe import make_inputs
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy


def compilations() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(3, 64, 1), (1, 3, 64)])
def test_compiles_twice_for_any_batch_sizes_and_weights(sizes: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    before = compilations()
    engine, standby = (TorchCompileEngine(TinyPolicy(), "digest") for _ in range(2))
    for each in (engine, standby, engine):
        for size in (*sizes, 7, 1, 1000, 2):
            outputs = each.run(make_inputs(TINY_SIGNATURE, size, seed=size))
            TINY_SIGNATURE.check_outputs(outputs, size)
        other = {name: tensor.numpy() for name, tensor in module_tensors(TinyPolicy()).items()}
        each.load_weights(other)
    assert compilations() - before == 2, "one for all batches of several rows, one for a single row"


def test_compiler_errors_are_policy_output_errors() -> None:
    class Branching(TinyPolicy):
        def forward(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            raise RuntimeError("broken on purpose")

    engine = TorchCompileEngine(Branching(), "digest")
    kind: EngineKind = "compile"
    assert engine.kind == kind
    with pytest.raises(PolicyOutputError, match="broken on purpose"):
        engine.run(make_inputs(TINY_SIGNATURE, 3, seed=0))
