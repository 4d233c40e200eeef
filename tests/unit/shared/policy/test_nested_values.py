"""Round trips of nested values at any depth, and structures as plain data."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SignatureMismatch
from shared.policy.nested_values import (
    ConstantNode,
    NumberNode,
    Structure,
    describe,
    flatten,
    leaf_names,
    merge,
    unflatten,
)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Frozen:
    only: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any
    y: Any = None

    def __post_init__(self) -> None:
        self.y = (self.y, "made by the constructor")


CLASSES = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in (Pair, Frozen, Slotted)}

_arrays = st.integers(0, 1000).map(lambda n: np.full((n % 3, 2), n))
_constants = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


def _slotted(x: Any, y: Any) -> Slotted:
    value = object.__new__(Slotted)
    value.x, value.y = x, y
    return value


def _deeper(children: st.SearchStrategy) -> st.SearchStrategy:
    return (
        st.lists(children, max_size=4)
        | st.lists(children, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), children, max_size=4)
        | st.builds(Pair, children, children)
        | st.builds(Frozen, children)
        | st.builds(_slotted, children, children)
    )


values = st.recursive(_arrays | _constants, _deeper, max_leaves=30)


def same(a: Any, b: Any) -> bool:  # noqa: PLR0911
    if type(a) is not type(b):
        return False
    match a:
        case np.ndarray():
            return a.dtype == b.dtype and np.array_equal(a, b)
        case float():
            return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
        case list() | tuple():
            return len(a) == len(b) and all(map(same, a, b))
        case dict():
            return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
        case Frozen() | Slotted():
            return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)


@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    structure, leaves, classes = describe(value)
    assert same(unflatten(structure, leaves, classes), value)
    assert classes.items() <= CLASSES.items()
    found = flatten(structure, value)
    assert len(found) == len(leaves)
    assert all(a is b for a, b in zip(found, leaves, strict=True))


@given(values)
def test_a_structure_is_plain_json(value: Any) -> None:
    structure, leaves, _ = describe(value)
    again = msgspec.json.decode(msgspec.json.encode(structure), type=Structure)
    assert again == structure
    assert same(unflatten(again, leaves, CLASSES), value)
    names = leaf_names(again)
    assert len(names) == len(set(names)) == len(leaves)


@given(values)
def test_a_value_fits_its_own_structure_without_its_classes(value: Any) -> None:
    structure, leaves, _ = describe(value)
    equivalent = unflatten(structure, leaves)
    assert all(a is b for a, b in zip(flatten(structure, equivalent), leaves, strict=True))
    assert merge(structure, structure) == structure


def test_values_may_be_nested_to_any_depth() -> None:
    value: Any = np.zeros(2)
    for depth in range(100):
        value = [value] if depth % 2 else {"x": (value, None)}
    structure, leaves, _ = describe(value)
    again = msgspec.json.decode(msgspec.json.encode(structure), type=Structure)
    assert same(unflatten(again, leaves), value)


def test_records_of_unknown_classes_have_the_same_fields() -> None:
    structure, leaves, _ = describe({"pair": Pair(np.zeros(1), 2), "frozen": Frozen(np.ones(1))})
    found = unflatten(structure, leaves)
    assert type(found["pair"]).__name__ == "Pair"
    assert found["pair"]._fields == ("first", "second")
    assert found["pair"].second == 2
    assert dataclasses.is_dataclass(found["frozen"])
    assert found["frozen"].only is leaves[1]


def test_keys_are_found_whatever_their_order() -> None:
    structure, _, _ = describe({"a": np.zeros(1), "b": np.ones(1)})
    a, b = flatten(structure, collections.OrderedDict(b="not yet", a=np.zeros(1)) | {"b": np.ones(1)})
    assert (a[0], b[0]) == (0, 1)


def test_leaf_names_are_paths() -> None:
    structure, _, _ = describe(
        {"obs": {"camera": np.zeros(1), "body": [np.zeros(1)] * 2}, "state": Pair(None, np.zeros(1))}
    )
    assert leaf_names(structure) == ("obs.camera", "obs.body.0", "obs.body.1", "state.second")
    twice, _, _ = describe({"a.b": np.zeros(1), "a": {"b": np.zeros(1)}})
    assert leaf_names(twice) == ("a.b", "a.b~2")
    assert leaf_names(describe(np.zeros(1))[0]) == ("value",)


@pytest.mark.parametrize(
    ("example", "value", "message"),
    [
        ([np.zeros(1)], (1,), r"arguments\[0\]: expected a tensor, found 1"),
        ([np.zeros(1)], [np.zeros(1)] * 2, "expected a list of 1, found a list of 2"),
        ({"a": 1}, {"b": 1}, r"expected a dict with the keys \['a'\], found a dict with the keys \['b'\]"),
        (Pair(1, 2), (1, 2), "expected a .*:Pair or another record with the fields"),
        ({"t": 0.5}, {"t": 0.7}, r"arguments\['t'\]: expected 0.5, found 0.7; pass a tensor instead"),
        ([True], [1], "expected True, found 1"),
        (None, np.zeros(1), "expected None, found a ndarray"),
        (Frozen([None]), Frozen([3]), r"arguments.only\[0\]: expected None, found 3"),
    ],
)
def test_mismatch_names_the_place_of_the_value(example: Any, value: Any, message: str) -> None:
    structure, _, _ = describe(example)
    with pytest.raises(SignatureMismatch, match=message):
        flatten(structure, value, "arguments")


@pytest.mark.parametrize("value", [{1, 2}, 3j, object(), {(1, 2): 3}, {True: 1}, np.zeros, b"bytes"])
def test_unsupported_values_are_refused(value: Any) -> None:
    with pytest.raises(SignatureMismatch, match=r"arguments\[0\]"):
        describe([value], "arguments")


def test_numbers_equal_in_value_fit() -> None:
    structure, _, _ = describe([1.0, 2, math.nan, np.float32(0.5)])
    for value in ([1, 2.0, math.nan, 0.5], [np.int8(1), np.float16(2), np.float32("nan"), np.float64(0.5)]):
        assert flatten(structure, value) == []
    assert flatten(describe([True])[0], [np.True_]) == []


@pytest.mark.parametrize(
    ("expected", "found"), [(1, True), (True, 1), (1, 1 + 0j), (math.nan, 1.0), (1.0, math.nan), (1, "1"), (None, 0)]
)
def test_constants_of_another_kind_or_value_do_not_fit(expected: Any, found: Any) -> None:
    with pytest.raises(SignatureMismatch, match=f"expected {expected!r}, found "):
        flatten(describe([expected])[0], [found])


def test_constants_that_differ_become_numbers_that_vary() -> None:
    first, second = (describe((n, "same", [n > 1, 0.5]))[0] for n in (1, 2))
    merged = merge(first, second)
    assert [type(item) for item in merged.items] == [NumberNode, ConstantNode, type(merged.items[2])]
    assert flatten(merged, (7, "same", [True, 0.5])) == [7, True]
    assert unflatten(merged, [np.array(7), np.array(True)]) == (7, "same", [True, 0.5])
    assert merge(merged, first) == merged


@pytest.mark.parametrize("numbers", [(1, 2), (0.5, 0.7), (True, False)])
@pytest.mark.parametrize("wrap", [lambda n: {"a": n}, Frozen, lambda n: Pair(n, "same"), lambda n: [n]])
def test_constants_vary_at_any_place(wrap: Callable[[Any], Any], numbers: tuple[Any, Any]) -> None:
    first, second = (describe(wrap(number))[0] for number in numbers)
    merged = merge(first, second)
    assert same(unflatten(merged, [np.array(numbers[1])], CLASSES), wrap(numbers[1]))


@pytest.mark.parametrize(("a", "b"), [([1], (1,)), ([], [1]), ("a", "b"), (None, np.zeros(1)), ({"a": 1}, {"b": 1})])
def test_different_structures_do_not_merge(a: Any, b: Any) -> None:
    with pytest.raises(SignatureMismatch, match="for some inputs and"):
        merge(describe(a)[0], describe(b)[0])


def test_wrong_numbers_of_tensors_are_refused() -> None:
    structure, _, _ = describe([np.zeros(1), np.zeros(1)])
    for n in (1, 3):
        with pytest.raises(SignatureMismatch, match="tensors"):
            unflatten(structure, [np.zeros(1)] * n)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1], [np.zeros(1)], "arguments[0] is 1 for some inputs and a tensor for others"),
        ([], (1, 2), "arguments is a list of 0 for some inputs and a tuple of 2 for others"),
        ({"a": {1: 2}}, {"a": None}, "arguments[0] is a dict with the keys [1] for some inputs and None for others"),
        (Frozen(0), "text", f"arguments is a {__name__}:Frozen for some inputs and 'text' for others"),
        (Frozen([1, 2]), Frozen([1, "x"]), "arguments[0][1] is 2 for some inputs and 'x' for others"),
    ],
)
def test_structures_that_do_not_merge_are_described_with_their_place(first: Any, second: Any, said: str) -> None:
    with pytest.raises(SignatureMismatch) as caught:
        merge(describe(first)[0], describe(second)[0], "arguments")
    assert str(caught.value) == said


def test_a_number_that_varies_is_described_by_its_kind() -> None:
    number = merge(describe(1)[0], describe(2)[0])
    with pytest.raises(SignatureMismatch, match=r"^the value is a int for some inputs and a tensor for others$"):
        merge(number, describe(np.zeros(1))[0])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Pair(1, 2), "a Pair"),
        (Frozen(1), "a Frozen"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a dict with the keys ['a']"),
        ("x" * 100, "'" + "x" * 79),
    ],
)
def test_a_value_in_place_of_a_tensor_is_described_briefly(value: Any, said: str) -> None:
    with pytest.raises(SignatureMismatch) as caught:
        flatten(describe(np.zeros(1))[0], value)
    assert str(caught.value) == f"the value: expected a tensor, found {said}"


def test_arrays_and_torch_tensors_are_tensors() -> None:
    tensor = torch.zeros(2)
    structure, leaves, _ = describe({"a": tensor, "b": np.zeros(1)})
    assert leaves[0] is tensor
    assert flatten(structure, {"a": np.zeros(1), "b": tensor})[1] is tensor
