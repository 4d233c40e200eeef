"""The bounds of a manifest, at their last accepted and first refused value."""

import math
import re

import pytest

from shared.errors import ManifestError
from shared.policy.manifest_checks import (
    MAX_TOLERANCE,
    check_module_signature,
    check_policy_signature,
    check_times,
    check_tolerances,
)
from shared.policy.nested_values import (
    ConstantNode,
    DictNode,
    RecordNode,
    SequenceNode,
    Structure,
    TensorNode,
    leaf_nodes,
)
from shared.policy.signature import ArgumentSpec, ModuleSignature, Parameter, PolicySignature
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.policy.tensor_limits import NamedSize

_YEAR_2000_S, _YEAR_2201_S = 946_684_800.0, 7_289_654_400.0
_MOST_CHOICES = 2**31


def _check_action(**fields: object) -> None:
    leaf = ObservationLeaf((), "box", "float32", (3,))
    action = ActionSpec(**{"kind": "discrete", "dtype": "int64", "shape": (), **fields})
    check_policy_signature(PolicySignature(observation=(leaf,), action=action, inputs=(), outputs=()))


def _check(structure: Structure) -> None:
    outputs = tuple(ArgumentSpec("y", "float32", ()) for _ in leaf_nodes(structure))
    check_module_signature(ModuleSignature((), outputs, ConstantNode("none"), structure))


def _places(specs: tuple[ArgumentSpec, ...]) -> Structure:
    return SequenceNode("tuple", (TensorNode(),) * len(specs))


def test_times() -> None:
    for created_unix_s, train_s in (
        (_YEAR_2000_S, 0.0),
        (math.nextafter(_YEAR_2201_S, 0.0), _YEAR_2201_S - _YEAR_2000_S),
        (1e9, 0.5),
    ):
        check_times(created_unix_s, train_s)
    for created_unix_s, train_s, says in (
        (math.nextafter(_YEAR_2000_S, 0.0), 0.0, "created_unix_s"),
        (_YEAR_2201_S, 0.0, "created_unix_s"),
        (1e9, -1e-9, "train_s"),
        (1e9, math.nextafter(_YEAR_2201_S - _YEAR_2000_S, math.inf), "train_s"),
    ):
        with pytest.raises(ManifestError, match=says):
            check_times(created_unix_s, train_s)


def test_tolerances() -> None:
    for allowed in (0.0, 1e-5, MAX_TOLERANCE):
        check_tolerances(allowed, allowed)
    for atol, rtol in ((-1e-9, 0.0), (0.0, -1e-9), (1.001e-3, 0.0), (0.0, 1.001e-3)):
        with pytest.raises(ManifestError, match=r"tolerances from 0 to 0\.001"):
            check_tolerances(atol, rtol)


@pytest.mark.parametrize(
    "fields",
    [
        {"cardinalities": (1,), "start": (0,)},
        {"cardinalities": (_MOST_CHOICES,), "start": (_MOST_CHOICES,)},
        {"cardinalities": (2,), "start": (-_MOST_CHOICES,)},
        {"kind": "multi_discrete", "shape": (2,), "cardinalities": (2, 3), "start": (0, 1)},
        {"kind": "box", "dtype": "float32", "shape": (2,)},
        {"kind": "box", "dtype": "float32", "shape": (2,), "low": (0.0, 0.0), "high": (1.0, 1.0)},
    ],
    ids=str,
)
def test_a_possible_action(fields: dict[str, object]) -> None:
    _check_action(**fields)


_CHOICES = "numbers of choices from 1 to 2147483648, and as many starts"
_STARTS = "discrete space: expected starts from -2147483648 to 2147483648"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cardinalities": (0,), "start": (0,)}, f"discrete space: expected 1 {_CHOICES}"),
        ({"cardinalities": (_MOST_CHOICES + 1,), "start": (0,)}, _CHOICES),
        ({"cardinalities": (2, 2), "start": (0,)}, _CHOICES),
        ({"cardinalities": (2,), "start": (0, 0)}, _CHOICES),
        ({"cardinalities": (2, 2), "start": (0, 0)}, _CHOICES),
        ({"cardinalities": (), "start": ()}, _CHOICES),
        ({"kind": "multi_discrete", "shape": (2,), "cardinalities": (2,), "start": (0,)}, f"expected 2 {_CHOICES}"),
        ({"cardinalities": (2,), "start": (_MOST_CHOICES + 1,)}, _STARTS),
        ({"cardinalities": (2,), "start": (-_MOST_CHOICES - 1,)}, _STARTS),
        ({"dtype": "int65", "cardinalities": (2,), "start": (0,)}, "discrete space: expected a dtype such as float32"),
        ({"dtype": "x" * 50}, f"such as float32, found '{'x' * 40}'"),
        ({"kind": "box", "dtype": "float32", "shape": (2,), "low": (0.0,), "high": (1.0, 1.0)}, "expected 2 bounds"),
        ({"kind": "box", "dtype": "float32", "shape": (2,), "low": (0.0, 0.0), "high": (1.0,)}, "expected 2 bounds"),
    ],
    ids=str,
)
def test_an_impossible_action(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(says)):
        _check_action(**fields)


def test_the_number_of_nodes_is_bounded() -> None:
    """One is the list, one the tuple in it."""
    _check(SequenceNode("list", (SequenceNode("tuple", (TensorNode(),) * 9_998),)))
    with pytest.raises(ManifestError, match="at most 10,000 nodes"):
        _check(SequenceNode("list", (SequenceNode("tuple", (TensorNode(),) * 9_999),)))


@pytest.mark.parametrize(
    "node",
    [
        ConstantNode("int", "7"),
        ConstantNode("float", "0.5"),
        DictNode(("a", "b"), (TensorNode(), TensorNode())),
        DictNode((), ()),
        RecordNode("named_tuple", "m:C", ("a", "b_"), (TensorNode(), TensorNode())),
        RecordNode("dataclass", "m:C", ("_a", "b"), (TensorNode(), TensorNode())),
    ],
    ids=str,
)
def test_a_possible_structure(node: Structure) -> None:
    _check(node)
    _check(SequenceNode("tuple", (TensorNode(), node)))


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (ConstantNode("int", "x" * 50), f"a constant of kind int, found {'x' * 40!r}"),
        (DictNode(("a", "a"), (TensorNode(), TensorNode())), "found 2 keys and 2 items"),
        (DictNode(("a", "b"), (TensorNode(),)), "found 2 keys and 1 items"),
        (DictNode(("a",), (TensorNode(), TensorNode())), "found 1 keys and 2 items"),
        (RecordNode("dataclass", "m:C", ("a", "a"), (TensorNode(), TensorNode())), "fields as items, found 2 and 2"),
        (RecordNode("dataclass", "m:C", ("a",), (TensorNode(), TensorNode())), "fields as items, found 1 and 2"),
        (RecordNode("dataclass", "m:C", ("a", "__b"), (TensorNode(), TensorNode())), "names of fields, found '__b'"),
        (RecordNode("named_tuple", "m:C", ("_a",), (TensorNode(),)), "names of fields, found '_a'"),
        (RecordNode("dataclass", "m:C", ("no name",), (TensorNode(),)), "names of fields, found 'no name'"),
        (RecordNode("dataclass", "m:C", ("class",), (TensorNode(),)), "names of fields, found 'class'"),
        (RecordNode("dataclass", "m:C", ("-" * 50,), (TensorNode(),)), f"names of fields, found {'-' * 40!r}"),
    ],
    ids=str,
)
def test_an_impossible_structure(node: Structure, says: str) -> None:
    for structure in (node, SequenceNode("tuple", (TensorNode(), node))):
        with pytest.raises(ManifestError, match=re.escape(says) + "$"):
            _check(structure)


X, N = ArgumentSpec("x", "float32", (None, "n")), NamedSize("n", 1, 4)


@pytest.mark.parametrize(
    ("inputs", "outputs", "sizes", "says"),
    [
        ((X,), (), (), "x: expected a range and an input for the named size n"),
        ((), (X,), (N,), "x: expected a range and an input for the named size n"),
        ((ArgumentSpec("x", "float32", ("n+1",)),), (), (N,), "x: expected a range and an input for the named size n"),
        ((ArgumentSpec("x", "float32", ("2*n",)),), (), (N,), "x: expected a name, or a sum .*, found '2\\*n'"),
        ((X,), (), (N, N), "expected at most 32 named sizes with different names"),
        ((X,), (), (NamedSize("n", -1, 4),), "n: expected sizes from 0 to 2147483648, smallest first, found -1 to 4"),
        ((X,), (), (NamedSize("n", 4, 3),), "n: expected sizes .* found 4 to 3"),
        ((X,), (), (NamedSize("n", 0, 2**31 + 1),), "n: expected sizes .* found 0 to 2147483649"),
    ],
)
def test_impossible_named_sizes(
    inputs: tuple[ArgumentSpec, ...], outputs: tuple[ArgumentSpec, ...], sizes: tuple[NamedSize, ...], says: str
) -> None:
    with pytest.raises(ManifestError, match=f"^{says}$"):
        check_module_signature(ModuleSignature(inputs, outputs, _places(inputs), _places(outputs), sizes))


def test_possible_named_sizes() -> None:
    outputs = (ArgumentSpec("y", "bfloat16", (None, "n+1", "n")),)
    check_module_signature(ModuleSignature((X,), outputs, TensorNode(), TensorNode(), (N,)))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ((Parameter("x"), Parameter("x")), "expected at most 10,000 parameters with different names"),
        ((Parameter("x", default=TensorNode()),), "x: expected a default without tensors"),
        ((Parameter("x", default=ConstantNode("int", "y")),), "structure of .*: expected the text of a constant"),
    ],
)
def test_impossible_parameters(parameters: tuple[Parameter, ...], says: str) -> None:
    with pytest.raises(ManifestError, match=f"^{says}"):
        check_module_signature(ModuleSignature((), (), _places(()), _places(()), parameters=parameters))
