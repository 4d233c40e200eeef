"""Graphs of one operator or a few, compared between ONNX Runtime and compiled code on tame and on wide inputs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from tests.support.small_graphs import WIDE_SIZES, Spec, assert_equals_onnxruntime, f32, graph


class Case(NamedTuple):
    """Description of a graph from ``x`` and ``more`` to ``y``."""

    nodes: Sequence[onnx.NodeProto]
    y: Spec = f32(5)
    x: Spec = f32(5)
    more: Mapping[str, Spec] = {}
    weights: Mapping[str, np.ndarray] = {}
    constants: Mapping[str, np.ndarray] = {}


def floats(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


PLACES = {"zero": np.array(0), "last": np.array(-1), "axis": ints(1), "two": ints(2), "four": ints(4)}


def assert_case_equals_onnxruntime(case: Case, *, is_wide: bool = True) -> None:
    """Compare on tame inputs, and with ``is_wide`` on wide ones."""
    # Sums of these weights times the inputs are exact, so that they do not depend on their order.
    weights = {name: np.round(8 * array) / np.float32(8) for name, array in case.weights.items()}
    inputs = {"x": case.x, **case.more}
    used = {name for made in case.nodes for name in made.input}
    kept = {name: array for name, array in case.constants.items() if name in used}
    data = graph(case.nodes, inputs=inputs, outputs={"y": case.y}, weights=weights, constants=kept)
    assert_equals_onnxruntime(data, inputs, weights, wide_sizes=WIDE_SIZES if is_wide else ())
