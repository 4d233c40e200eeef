"""Checks of the content of a manifest beyond the types of its fields. Each raises ManifestError.

They run once, when a manifest is decoded. Later code computes with sizes, times and structures without a check.
"""

import functools
import keyword
import math
from collections.abc import Mapping, Sequence

from msgspec import UnsetType

from shared.errors import ManifestError
from shared.policy.nested_values import (
    ConstantNode,
    DictNode,
    Number,
    NumberNode,
    RecordNode,
    SequenceNode,
    Structure,
    leaf_names,
    leaf_nodes,
)
from shared.policy.signature import ArgumentSpec, ModuleSignature, PolicySignature, TensorSpec
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.policy.tensor_limits import MAX_NAMED_SIZE, MAX_NAMES, MAX_TENSORS, shape_fault, size_terms
from shared.policy.weights import TENSOR_DTYPES

MAX_TOLERANCE = 1e-3
"""The largest tolerance of a probe. Programs of one policy differ by about 1e-6."""

_EARLIEST_UNIX_S, _END_UNIX_S = 946_684_800.0, 7_289_654_400.0  # the beginnings of 2000 and of 2201
_LONGEST_S = _END_UNIX_S - _EARLIEST_UNIX_S
_MAX_DEPTH = 64
_MAX_NODES = 10_000
_MAX_CHOICES = 2**31
_KINDS: Mapping[Number, tuple[str, ...]] = {"bool": ("bool",), "int": ("int", "uint"), "float": ("float",)}


def check_times(created_unix_s: float, train_s: float) -> None:
    """Raise ManifestError unless the version was made in the years 2000 to 2200, by a training that fits there."""
    if not _EARLIEST_UNIX_S <= created_unix_s < _END_UNIX_S:
        raise ManifestError(
            "set the clock of the publisher: expected created_unix_s in the years 2000 to 2200, "
            f"found {created_unix_s:g}"
        )
    if not 0 <= train_s <= _LONGEST_S:
        raise ManifestError(f"expected train_s from 0 to {_LONGEST_S:.0f}, found {train_s:g}")


def check_tolerances(atol: float, rtol: float) -> None:
    """Raise ManifestError unless both are from 0 to MAX_TOLERANCE."""
    if not (0 <= atol <= MAX_TOLERANCE and 0 <= rtol <= MAX_TOLERANCE):
        raise ManifestError(
            f"expected probe tolerances from 0 to {MAX_TOLERANCE:g}, found atol {atol:g} and rtol {rtol:g}"
        )


@functools.lru_cache(maxsize=8)  # versions of one program have equal signatures
def check_policy_signature(signature: PolicySignature) -> None:
    """Raise ManifestError unless every tensor and every space is possible."""
    _check_tensors(signature.inputs)
    _check_tensors(signature.outputs)
    for leaf in signature.observation:
        _check_space(leaf)
    _check_space(signature.action)
    action = signature.action
    size = math.prod(action.shape)
    if any(len(bounds) not in (0, size) for bounds in (action.low, action.high)):
        raise ManifestError(f"expected {size} bounds of the action, found {len(action.low)} and {len(action.high)}")


def check_module_signature(signature: ModuleSignature) -> None:
    """Raise ManifestError unless every tensor is possible, the structures are bounded, and both fit each other."""
    _check_tensors(signature.inputs)
    _check_tensors(signature.outputs)
    _check_structure(signature.arguments)
    _check_structure(signature.result)
    _check_places(signature.inputs, signature.arguments)
    _check_places(signature.outputs, signature.result)
    if any(isinstance(place, NumberNode) for place in leaf_nodes(signature.arguments)):
        raise ManifestError("expected tensors as arguments, found a number: numbers are constants there")
    _check_named_sizes(signature)
    _check_parameters(signature)


def _check_places(specs: Sequence[ArgumentSpec], structure: Structure) -> None:
    """Raise ManifestError unless there is a tensor for each place in ``structure``, and one number for each number."""
    places = list(leaf_nodes(structure))
    if len(places) != len(specs):
        raise ManifestError(f"expected a tensor for each place, found {len(specs)} tensors, {len(places)} places")
    for spec, place in zip(specs, places, strict=True):
        if isinstance(place, NumberNode) and not _is_number(spec, place):
            raise ManifestError(f"{spec.name[:80]}: expected one {place.kind}, found {spec.dtype} {spec.shape}")


def _is_number(spec: ArgumentSpec, place: NumberNode) -> bool:
    return spec.shape == () and spec.dtype.startswith(_KINDS[place.kind])


def _check_tensors(specs: Sequence[TensorSpec] | Sequence[ArgumentSpec]) -> None:
    for spec in specs:
        shape = [size for size in spec.shape if isinstance(size, int)]
        if (fault := _tensor_fault(spec.dtype, shape)) is not None:
            raise ManifestError(f"{spec.name[:80]}: {fault}")


def _check_named_sizes(signature: ModuleSignature) -> None:
    """Raise ManifestError unless every name in a shape has a range, and a dimension of an input with that size."""
    ranges = {named.name: named for named in signature.named_sizes}
    if len(ranges) != len(signature.named_sizes) or len(ranges) > MAX_NAMES:
        raise ManifestError(f"expected at most {MAX_NAMES} named sizes with different names")
    for named in ranges.values():
        if not 0 <= named.smallest <= named.largest <= MAX_NAMED_SIZE:
            raise ManifestError(
                f"{named.name[:80]}: expected sizes from 0 to {MAX_NAMED_SIZE}, smallest first, "
                f"found {named.smallest} to {named.largest}"
            )
    plain = {size for spec in signature.inputs for size in spec.shape if isinstance(size, str)}
    for spec in (*signature.inputs, *signature.outputs):
        for size in spec.shape:
            try:
                names = size_terms(size)[0] if isinstance(size, str) else ()
            except ValueError as error:
                raise ManifestError(f"{spec.name[:80]}: {error}") from error
            if missing := [name for name in names if name not in ranges or name not in plain]:
                raise ManifestError(f"{spec.name[:80]}: expected a range and an input for the named size {missing[0]}")


def _check_parameters(signature: ModuleSignature) -> None:
    parameters = signature.parameters if isinstance(signature.parameters, tuple) else ()
    if len({parameter.name for parameter in parameters}) != len(parameters) or len(parameters) > MAX_TENSORS:
        raise ManifestError(f"expected at most {MAX_TENSORS:,} parameters with different names")
    for parameter in parameters:
        if not isinstance(parameter.default, UnsetType):
            _check_structure(parameter.default)
            if leaf_names(parameter.default):
                raise ManifestError(f"{parameter.name[:80]}: expected a default without tensors")


def _check_space(space: ObservationLeaf | ActionSpec) -> None:
    fault = _tensor_fault(space.dtype, space.shape)
    if fault is None and space.kind in ("discrete", "multi_discrete"):
        choices, size = space.cardinalities, math.prod(space.shape)
        if not len(choices) == len(space.start) == size or not all(0 < n <= _MAX_CHOICES for n in choices):
            fault = f"expected {size} numbers of choices from 1 to {_MAX_CHOICES}, and as many starts"
        elif any(abs(start) > _MAX_CHOICES for start in space.start):
            fault = f"expected starts from {-_MAX_CHOICES} to {_MAX_CHOICES}"
    if fault is not None:
        raise ManifestError(f"{space.kind} space: {fault}")


def _tensor_fault(dtype: str, shape: Sequence[int]) -> str | None:
    item_bytes = TENSOR_DTYPES.get(dtype)
    if item_bytes is None:
        return f"expected a dtype such as float32, found {dtype[:40]!r}"
    return shape_fault(shape, item_bytes)


def _check_structure(structure: Structure) -> None:
    level, nodes = [structure], 0
    for _ in range(_MAX_DEPTH):
        nodes += len(level)
        if nodes > _MAX_NODES:
            raise ManifestError(f"expected structures of at most {_MAX_NODES:,} nodes, found more")
        for node in level:
            if (fault := _node_fault(node)) is not None:
                raise ManifestError(f"structure of arguments or results: {fault}")
        level = [
            item for node in level if isinstance(node, SequenceNode | DictNode | RecordNode) for item in node.items
        ]
        if not level:
            return
    raise ManifestError(f"expected structures of at most {_MAX_DEPTH} levels, found more")


def _node_fault(node: Structure) -> str | None:
    """Return the reason for which no value has the structure of ``node``, or None. Its items are not looked at."""
    match node:
        case ConstantNode(kind=kind):
            try:
                node.value  # noqa: B018 - the text of a number is converted
            except ValueError:
                return f"expected the text of a constant of kind {kind}, found {node.text[:40]!r}"
        case DictNode(keys=keys, items=items):
            if len(set(keys)) != len(keys) or len(keys) != len(items):
                return f"expected as many different keys as items, found {len(keys)} keys and {len(items)} items"
        case RecordNode(fields=fields, items=items):
            if len(set(fields)) != len(fields) or len(fields) != len(items):
                return f"expected as many different fields as items, found {len(fields)} and {len(items)}"
            hidden = "_" if node.kind == "named_tuple" else "__"
            if bad := [name for name in fields if not _is_field(name) or name.startswith(hidden)]:
                return f"expected names of fields, found {bad[0][:40]!r}"
    return None


def _is_field(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)
