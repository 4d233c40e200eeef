"""Networks with attention from the zoo run compiled, and equal the module."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actor.acting.module_call import LoadedModule, load_policy
from learner.export.module_export import export_module
from scripts.conformance.zoo import entities, transformers
from scripts.conformance.zoo.network import Network
from tests.support.small_graphs import WIDE_SIZES

_NETWORKS = {network.name: network for network in (*entities.NETWORKS, *transformers.NETWORKS)}
_COMPILED = (
    "heads of hok_env",
    "GTrXL step",
    "set transformer",
    "transformer encoder",
    "RMSNorm, rotary positions, SwiGLU",
)


def _leaves(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    else:
        for part in result:
            yield from _leaves(part)


def _loaded(network: Network, directory: Path) -> tuple[torch.nn.Module, LoadedModule]:
    torch.manual_seed(0)
    module = network.make().eval()
    export_module(module, network.draw(3), directory / "exported", how="onnx")
    return module, load_policy(directory / "exported", engine="llvm", sandbox=None)


def _assert_equal(expected: Any, found: Any) -> None:
    for mine, theirs in zip(_leaves(found), _leaves(expected), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", _COMPILED)
def test_networks_with_attention_are_compiled(name: str, tmp_path: Path) -> None:
    network = _NETWORKS[name]
    module, loaded = _loaded(network, tmp_path)
    assert loaded.engine.kind == "llvm"
    for rows in WIDE_SIZES:
        arguments = network.draw(rows)
        with torch.no_grad():
            _assert_equal(module(*arguments), loaded(*arguments))


@pytest.mark.slow
def test_the_memory_of_a_gated_transformer_moves_on_with_each_step(tmp_path: Path) -> None:
    network = _NETWORKS["GTrXL step"]
    module, loaded = _loaded(network, tmp_path)
    observation, memory = network.draw(2)
    own = memory
    with torch.no_grad():
        for _ in range(12):  # longer than the memory
            *expected, memory = module(observation, memory)
            *found, own = loaded(observation, own)
            _assert_equal([*expected, memory], [*found, own])
