"""Each operator that only moves numbers against ONNX Runtime, at batch sizes that take every path through the code."""

import numpy as np
import pytest
from onnx import helper

from tests.support.operator_cases import PLACES, Case, assert_case_equals_onnxruntime, floats, ints
from tests.support.small_graphs import f32, node, nodes

CASES: dict[str, Case] = {
    "Identity": Case(nodes("Identity x -> y")),
    **{
        f"{dtype} to floats": Case(nodes("Cast x -> f to=1; Tanh f -> y"), x=(dtype, (5,)))
        for dtype in ("uint8", "int8", "int16", "int32", "int64", "bool")
    },
    "bytes as they are": Case(nodes("Identity x -> y"), ("uint8", (5,)), ("uint8", (5,))),
    "to float64": Case(nodes("Tanh x -> t; Cast t -> y to=11"), ("float64", (5,))),
    "Flatten": Case(nodes("Flatten x -> y"), f32(6), f32(2, 3)),
    "Concat": Case(nodes("Concat x z x -> y axis=1"), f32(12), more={"z": f32(2)}),
    "Concat of what is cut again": Case(
        nodes("Concat x z -> c axis=-1; Slice c two four axis -> s; Slice c zero1 two axis -> r; Add s r -> y"),
        f32(2),
        more={"z": f32(2)},
        constants={**PLACES, "zero1": ints(0)},
    ),
    "Slice to the end": Case(nodes("Slice x two end axis -> y"), f32(3), constants={**PLACES, "end": ints(2**63 - 1)}),
    "Slice from the end": Case(
        nodes("Slice x minus end axis -> y"), f32(2), constants={**PLACES, "minus": ints(-2), "end": ints(9)}
    ),
    "Slice of all rows": Case(
        nodes("Slice x starts ends both -> y"),
        f32(2),
        constants={"starts": ints(0, 1), "ends": ints(2**63 - 1, 3), "both": ints(0, 1)},
    ),
    "SplitToSequence into lengths": Case(
        nodes("SplitToSequence x lengths -> s axis=1; SequenceAt s last -> y"),
        f32(3),
        constants={**PLACES, "lengths": ints(2, 3)},
    ),
    "SplitToSequence into one length": Case(
        nodes("SplitToSequence x length -> s axis=1; SequenceAt s last -> y"),
        f32(1),
        constants={**PLACES, "length": np.array(2)},
    ),
    "Gather": Case(nodes("Gather x last -> y axis=1"), f32(), constants=PLACES),
    "Squeeze": Case(nodes("Squeeze x axis -> y"), f32(), f32(1), constants=PLACES),
    "Unsqueeze": Case(nodes("Unsqueeze x axis -> y"), f32(1, 5), constants=PLACES),
    "Reshape": Case(nodes("Reshape x s -> y"), f32(6), f32(2, 3), constants={"s": ints(0, 6)}),
    "Reshape, rows left over": Case(nodes("Reshape x s -> y"), f32(3, 2), f32(6), constants={"s": ints(-1, 3, 2)}),
    "Reshape, numbers left over": Case(nodes("Reshape x s -> y"), f32(3, 2), f32(6), constants={"s": ints(0, 3, -1)}),
    "Reshape by the batch size": Case(
        nodes("Shape x -> shape start=0 end=1; Concat shape rest -> s axis=0; Reshape x s -> y"),
        f32(6),
        f32(2, 3),
        constants={"rest": ints(6)},
    ),
    "Reshape by a shape put together": Case(
        nodes(
            "Shape x -> shape; Gather shape zero -> n; Unsqueeze n zeros -> rows; "
            "Cast rows -> rows64 to=7; Concat rows64 rest -> s axis=0; Reshape x s -> y"
        ),
        f32(3, 2),
        f32(6),
        constants={"zero": np.array(0), "zeros": ints(0), "rest": ints(3, -1)},
    ),
    "Slice up to the batch size": Case(
        nodes("Shape x -> n start=0 end=1; Slice x zeros n zeros -> s; Neg s -> y"), constants={"zeros": ints(0)}
    ),
    "Range": Case(
        nodes("Range zero five one -> r; Equal x r -> y"),
        ("bool", (5,)),
        ("int64", (5,)),
        constants={"zero": np.array(0), "five": np.array(5), "one": np.array(1)},
    ),
    "Transpose": Case([node("Transpose", "x", "y", perm=[0, 3, 1, 2])], f32(5, 2, 20), f32(2, 20, 5)),
    "Transpose of the rows, and back": Case(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("Tanh", "t", "u"),
            node("Transpose", "u", "y", perm=[1, 0, 2]),
        ],
        f32(3, 5),
        f32(3, 5),
    ),
    "Reshape that merges rows and heads": Case(
        [
            *nodes("Reshape x s -> m; Neg m -> n"),
            node("Transpose", "n", "t", perm=[0, 2, 1]),
            *nodes("Shape x -> shape; Slice shape zero1 two zero1 -> lead; Concat lead rest -> r axis=0"),
            *nodes("Reshape t r -> y"),
        ],
        f32(4, 5, 3),
        f32(4, 3, 5),
        constants={"s": ints(-1, 3, 5), "zero1": ints(0), "two": ints(2), "rest": ints(5, 3)},
    ),
    "the batch size times a number of heads": Case(
        nodes(
            "Shape x -> n start=0 end=1; Mul n h -> nh; Concat nh rest -> s axis=0; Reshape x s -> m; Softmax m -> p; "
            "Reshape p back -> y"
        ),
        f32(4, 5),
        f32(4, 5),
        constants={"h": ints(4), "rest": ints(5), "back": ints(-1, 4, 5)},
    ),
    "Reshape of rows behind another axis": Case(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            *nodes("Reshape t s -> r"),
            node("Transpose", "r", "u", perm=[1, 0, 2]),
            *nodes("Reshape u back -> y"),
        ],
        f32(2, 3, 2),
        f32(3, 4),
        constants={"s": ints(3, -1, 2), "back": ints(-1, 2, 3, 2)},
    ),
    "Reshape that merges rows behind another axis, and back": Case(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            *nodes("Reshape t s -> m; MatMul m w -> p; Reshape p back -> u"),
            node("Transpose", "u", "y", perm=[1, 0, 2]),
        ],
        f32(3, 5),
        f32(3, 4),
        weights={"w": floats(4, 5)},
        constants={"s": ints(-1, 4), "back": ints(3, -1, 5)},
    ),
    "Flatten behind the rows": Case(nodes("Flatten x -> y axis=1"), f32(24), f32(2, 3, 4)),
    "Split into lengths": Case(
        [helper.make_node("Split", ["x", "n"], ["a", "b"], axis=2), *nodes("Mul a c -> d; Concat b d -> y axis=2")],
        f32(3, 5),
        f32(3, 5),
        constants={"n": ints(2, 3), "c": np.array(2, np.float32)},
    ),
    "Split into equal parts": Case(
        [helper.make_node("Split", ["x"], ["a", "b"], axis=-1, num_outputs=2), *nodes("Concat b a -> y axis=2")],
        f32(3, 5),
        f32(3, 5),
    ),
    "SplitToSequence of a weight": Case(
        nodes("SplitToSequence w n -> s axis=0; SequenceAt s last -> p; Gemm x p -> y transB=1"),
        f32(3),
        weights={"w": floats(7, 5)},
        constants={"n": ints(4, 3), "last": np.array(-1)},
    ),
    "Gather at several places": Case(
        nodes("Gather x p -> y axis=2"), f32(3, 4), f32(3, 5), constants={"p": ints(4, 0, -2, 0)}
    ),
    "Gather of a vector": Case(nodes("Gather x last -> y axis=1"), f32(5), f32(3, 5), constants=PLACES),
    "Slice with steps": Case(
        nodes("Slice x s e a t -> y"),
        f32(2, 3),
        f32(4, 5),
        constants={"s": ints(1, 0), "e": ints(4, 99), "a": ints(1, 2), "t": ints(2, 2)},
    ),
    "Slice backwards": Case(
        nodes("Slice x s e a t -> y"),
        constants={"s": ints(-1), "e": ints(-(2**62)), "a": ints(1), "t": ints(-1)},
    ),
    "a history moves on by one": Case(
        nodes("Slice x one end axis -> s; Unsqueeze z axis -> u; Concat s u -> y axis=1"),
        f32(4, 20),
        f32(4, 20),
        more={"z": f32(20)},
        constants={"one": ints(1), "end": ints(2**62), "axis": ints(1)},
    ),
    "Expand of a weight to the rows": Case(
        nodes("Shape x -> n start=0 end=1; Concat n rest -> s axis=0; Expand w s -> e; Concat e x -> y axis=1"),
        f32(6, 5),
        f32(3, 5),
        weights={"w": floats(1, 1, 5)},
        constants={"rest": ints(3, 5)},
    ),
    "Expand of rows": Case(nodes("Expand x s -> y"), f32(3, 5), f32(1, 5), constants={"s": ints(1, 3, 1)}),
    "a weight in parts, turned and summed": Case(
        nodes(
            "Transpose w -> t; Squeeze v zeros -> u; Unsqueeze u zeros -> q; Add q t -> s; Gather s zero -> r; "
            "Add x r -> y"
        ),
        f32(5),
        weights={"w": floats(5, 3), "v": floats(1, 5)},
        constants={"zero": np.array(0), "zeros": ints(0)},
    ),
    "a turned weight in another shape": Case(
        nodes("Transpose w -> t; Reshape t s -> r; Add x r -> y"),
        f32(6),
        f32(6),
        weights={"w": floats(2, 3)},
        constants={"s": ints(-1)},
    ),
    "Expand of a constant to the rows": Case(
        nodes("Shape x -> n start=0 end=1; Concat n rest -> s axis=0; Expand c s -> y"),
        f32(3),
        constants={"c": np.array(0.5, np.float32), "rest": ints(3)},
    ),
    "CastLike of a constant": Case(nodes("CastLike c x -> d; Add x d -> y"), constants={"c": np.array(3)}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(case: str) -> None:
    assert_case_equals_onnxruntime(CASES[case])
