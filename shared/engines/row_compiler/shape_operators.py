"""Translation of ONNX operators that move numbers or change their kind, without computing any.

A weight, and a tensor whose numbers keep their order, take no step. Axes are the graph's, of which the batch is one.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from shared.engines.row_compiler.constant_folding import BATCH, Constant, axes_of, batches, dtype_of, integers
from shared.engines.row_compiler.operators import Attributes, Inputs, Translation, without_axes
from shared.engines.row_compiler.row_builder import Batch, RowBuilder, Tensor, Value, Weight, kind_of
from shared.engines.row_compiler.row_program import Groups, Step
from shared.engines.row_compiler.views import View
from shared.errors import ProgramUnsupported

_TO_THE_END = 2**31
_MOST_PARTS = 500
# Casts among these are exact for the values of a row program.
_EXACT = frozenset({"float32", "int64", "int32", "bool"})


def _source(build: RowBuilder, value: Value | None) -> Tensor | Weight:
    """Return a weight as it is, to be rearranged when it is read, and anything else as a tensor."""
    return value if isinstance(value, Weight) else build.tensor(value)


def _view(x: Tensor | Weight) -> View:
    return x.view if isinstance(x, Weight) else View.of(x.shape)


def _seen(build: RowBuilder, x: Tensor | Weight, view: View, batch: Batch | None) -> Tensor | Weight:
    return replace(x, view=view) if isinstance(x, Weight) else build.arranged(x, view, batch)


def _axis(x: Tensor | Weight, axis: int) -> int:
    return x.axis(axis) if isinstance(x, Tensor) else axis % len(x.shape)


def _shape(_: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    value = inputs[0]
    if isinstance(value, Tensor):
        shape = _graph_shape(value)
    elif isinstance(value, Weight | np.ndarray):
        shape = value.shape
    else:
        raise ProgramUnsupported("Shape of a sequence")
    return np.array(shape, np.int64)[attributes.get("start", 0) : attributes.get("end")]


def _graph_shape(x: Tensor) -> tuple[int, ...]:
    """Return the shape of ``x`` in the graph, with multiples of ``BATCH``."""
    return tuple(BATCH * n if i == x.batch_axis else n for i, n in enumerate(x.shape))


def _reshape(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    x, target = _source(build, inputs[0]), integers(inputs[1], may_be_batch=True)
    if not attributes.get("allowzero", 0):
        known = _graph_shape(x) if isinstance(x, Tensor) else x.shape
        target = [known[i] if n == 0 and i < len(known) else n for i, n in enumerate(target)]
    if isinstance(x, Weight) and not x.view.is_row_major:
        x = build.tensor(x)
    if isinstance(x, Weight):
        shape = _filled(target, math.prod(x.shape))
        return replace(x, view=replace(View.of(shape), start=x.view.start))
    return _reshaped(x, target)


def _reshaped(x: Tensor, target: Sequence[int]) -> Tensor:
    """Return ``x`` in the graph's shape ``target``: as many numbers of a row stay before the batch."""
    if x.batch is None:
        return replace(x, shape=_filled(target, x.operand.width))
    marked = [i for i, n in enumerate(target) if batches(n)] or [i for i, n in enumerate(target) if n == -1]
    if len(marked) != 1:
        raise ProgramUnsupported(f"Reshape to {list(target)}, which mixes rows")
    axis = marked[0]
    shape = _filled([batches(n) or n for n in target], x.operand.width)
    before = math.prod(x.shape[: x.batch.axis]) * x.batch.ahead
    ahead, rest = divmod(before, math.prod(shape[:axis]))
    if rest or not ahead or shape[axis] % ahead:
        raise ProgramUnsupported(f"Reshape to {list(target)}, which mixes rows")
    return replace(x, shape=shape, batch=Batch(axis, ahead))


def _filled(target: Sequence[int], width: int) -> tuple[int, ...]:
    """Return the shape ``target`` of ``width`` numbers, with one -1 replaced by the remaining size."""
    known = math.prod(n for n in target if n != -1)
    if list(target).count(-1) == 1 and known > 0 and width % known == 0:
        target = [width // known if n == -1 else n for n in target]
    if math.prod(target) != width or any(n < 1 for n in target):
        raise ProgramUnsupported(f"Reshape of {width} numbers in a row to {list(target)}, which mixes rows")
    return tuple(target)


def _flatten(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, axis = build.tensor(inputs[0]), attributes.get("axis", 1)
    if not 0 < axis <= len(x.shape) or x.batch is None:
        raise ProgramUnsupported("Flatten that mixes rows")
    shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    batch = 0 if x.batch.axis < axis else 1
    return _reshaped(x, [BATCH * n if i == batch else n for i, n in enumerate(shape)])


def _squeeze(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    x = _source(build, inputs[0])
    axes = sorted({axis % max(len(x.shape), 1) for axis in axes_of(inputs, attributes)})
    is_of_rows = isinstance(x, Tensor) and x.batch_axis in axes
    if not axes or is_of_rows or any(x.shape[axis] != 1 for axis in axes):
        raise ProgramUnsupported(f"Squeeze of the axes {axes}")
    return without_axes(x, axes) if isinstance(x, Tensor) else replace(x, view=x.view.without(axes))


def _unsqueeze(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    x, axes = _source(build, inputs[0]), axes_of(inputs, attributes)
    rank = len(x.shape) + len(axes)
    places = {axis % rank for axis in axes}
    kept = [i for i in range(rank) if i not in places]
    if len(kept) != len(x.shape):
        raise ProgramUnsupported(f"Unsqueeze of the axes {axes}")
    view = _view(x)
    lengths, strides = dict(zip(kept, view.shape, strict=True)), dict(zip(kept, view.strides, strict=True))
    shape = tuple(lengths.get(i, 1) for i in range(rank))
    if isinstance(x, Weight):
        return replace(x, view=View(shape, tuple(strides.get(i, 0) for i in range(rank)), view.start))
    return replace(x, shape=shape, batch=x.batch and x.batch._replace(axis=kept[x.batch.axis]))


def _transpose(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    x = _source(build, inputs[0])
    order = list(attributes.get("perm", reversed(range(len(x.shape)))))
    if sorted(order) != list(range(len(x.shape))):
        raise ProgramUnsupported(f"Transpose to the order {order}")
    return build.turned(x, order) if isinstance(x, Tensor) else replace(x, view=x.view.transposed(order))


def _expand(build: RowBuilder, inputs: Inputs, _: Attributes) -> Value:
    x, target = build.tensor(inputs[0]), integers(inputs[1], may_be_batch=True)
    own = [1] * (len(target) - len(x.shape)) + list(_graph_shape(x))
    target = [1] * (len(own) - len(target)) + target
    if any(n != 1 and m not in (1, n) for n, m in zip(own, target, strict=True)):
        raise ProgramUnsupported(f"Expand of {own} to {target}")
    wanted = [m if n == 1 else n for n, m in zip(own, target, strict=True)]
    marked = [i for i, n in enumerate(wanted) if batches(n)]
    if len(marked) > 1:
        raise ProgramUnsupported(f"Expand of {own} to {target}, which mixes rows")
    shape = [batches(n) or n for n in wanted]
    batch = Batch(marked[0], 1 if x.batch is None else x.batch.ahead) if marked else None
    return build.arranged(x, View.of(x.shape).expanded(shape), batch)


def _slice(build: RowBuilder, inputs: Inputs, _: Attributes) -> Value:
    x = _source(build, inputs[0])
    starts, ends = integers(inputs[1]), integers(inputs[2], may_be_batch=True)
    axes = integers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = integers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    view = _view(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        is_all = start == 0 and step == 1 and (end >= _TO_THE_END or batches(end) > 0)
        if is_all and isinstance(x, Tensor) and axis % len(x.shape) == x.batch_axis:
            continue  # all rows
        if batches(end):
            raise ProgramUnsupported("Slice of each row up to the batch size")
        place = _axis(x, axis)
        taken = range(*slice(start, end, step).indices(view.shape[place]))
        if not taken:
            raise ProgramUnsupported("Slice of no numbers")
        view = view.cut(place, taken[0], len(taken), step)
    return _seen(build, x, view, x.batch if isinstance(x, Tensor) else None)


def _parts(
    build: RowBuilder, x: Tensor | Weight, axis: int, lengths: Sequence[int], what: str
) -> list[Tensor | Weight]:
    """Return parts of these lengths along ``axis``."""
    if sum(lengths) != x.shape[axis] or min(lengths) < 1 or len(lengths) > _MOST_PARTS:
        raise ProgramUnsupported(f"{what} of {x.shape[axis]} numbers into {list(lengths)}")
    batch = x.batch if isinstance(x, Tensor) else None
    starts = itertools.accumulate(lengths[:-1], initial=0)
    return [_seen(build, x, _view(x).cut(axis, start, n), batch) for start, n in zip(starts, lengths, strict=True)]


def _split(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> tuple[Value, ...]:
    x = _source(build, inputs[0])
    axis = _axis(x, attributes.get("axis", 0))
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(_parts(build, x, axis, integers(inputs[1]), "Split"))
    count = attributes.get("num_outputs", 0)
    if count < 1:
        raise ProgramUnsupported("Split without lengths")
    return tuple(_parts(build, x, axis, _equal_lengths(x.shape[axis], -(-x.shape[axis] // count)), "Split"))


def _equal_lengths(whole: int, length: int) -> list[int]:
    """Return lengths that add up to ``whole``, of which only the last may be shorter."""
    if whole > _MOST_PARTS * length:
        raise ProgramUnsupported(f"a split into {whole // length} parts")
    return [min(length, whole - start) for start in range(0, whole, length)]


def _split_to_sequence(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> list[Tensor | Weight]:
    x, lengths = _source(build, inputs[0]), inputs[1] if len(inputs) > 1 else None
    axis = _axis(x, attributes.get("axis", 0))
    if lengths is None or not attributes.get("keepdims", 1):
        raise ProgramUnsupported("SplitToSequence into single numbers")
    numbers = integers(lengths)
    if isinstance(lengths, np.ndarray) and not lengths.ndim:
        numbers = _equal_lengths(x.shape[axis], max(numbers[0], 1))
    return _parts(build, x, axis, numbers, "SplitToSequence")


def _sequence_at(_: RowBuilder, inputs: Inputs, __: Attributes) -> Value:
    parts, (place,) = inputs[0], integers(inputs[1])
    if not isinstance(parts, list) or not -len(parts) <= place < len(parts):
        raise ProgramUnsupported("SequenceAt of an index that is out of range")
    return parts[place]


def _gather(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    x, indices = _source(build, inputs[0]), inputs[1]
    axis = _axis(x, attributes.get("axis", 0))
    places = _places(indices, x.shape[axis])
    batch = x.batch if isinstance(x, Tensor) else None
    parts = [_seen(build, x, _view(x).cut(axis, place, 1), batch) for place in places.reshape(-1).tolist()]
    if places.ndim == 1:
        return build.joined([build.tensor(part) for part in parts], axis)
    (part,) = parts
    return without_axes(part, [axis]) if isinstance(part, Tensor) else replace(part, view=part.view.without([axis]))


def _places(indices: Value | None, length: int) -> Constant:
    """Return constant indices counted from the start."""
    if not isinstance(indices, np.ndarray) or indices.ndim > 1 or not indices.size:
        raise ProgramUnsupported("Gather at indices that are not a list of constants")
    numbers = np.array(integers(indices)).reshape(indices.shape)
    if ((numbers < -length) | (numbers >= length)).any():
        raise ProgramUnsupported(f"Gather beyond {length} numbers")
    return np.where(numbers < 0, numbers + length, numbers)


def _gather_elements(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, index = build.tensor(inputs[0]), inputs[1]
    axis = x.axis(attributes.get("axis", 0))
    shape = View.of(x.shape).cut(axis, 0, 1).shape
    if not isinstance(index, Tensor) or (index.shape, index.batch) != (shape, x.batch):
        raise ProgramUnsupported("GatherElements at more than one index")
    if not 0 < max(index.below, default=0) <= x.shape[axis]:
        raise ProgramUnsupported("GatherElements at an index that may be out of range")
    order = [*(i for i in range(len(shape)) if i != axis), axis]
    groups = x.groups(axis)
    turned = x if groups.inner == 1 else build.arranged(x, View.of(x.shape).transposed(order))
    # The index has one entry along the axis, so its numbers keep their order.
    width = index.operand.width
    step = Step("pick", (turned.operand, index.operand), width, Groups(width, groups.length))
    return Tensor(build.step(step), shape, x.batch, x.kind)


def _concat(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    tensors = [build.tensor(value) for value in inputs]
    axes = {tensor.axis(attributes["axis"]) for tensor in tensors}
    if len(axes) != 1:
        raise ProgramUnsupported("Concat of several dtypes or shapes")
    return build.joined(tensors, axes.pop())


def _cast(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    """Cast integers and bools to floats as they are; casts of floats to other kinds are refused."""
    x, dtype = build.tensor(inputs[0]), dtype_of(attributes["to"])
    kind = kind_of(dtype)
    if x.kind in ("float", "other") and kind not in ("float", "other"):
        raise ProgramUnsupported(f"Cast of floats to {dtype}")
    if kind == "truth" and x.kind != "truth":
        raise ProgramUnsupported("Cast of numbers to bool")
    if str(dtype) not in _EXACT:
        if (x.kind, str(dtype)) != ("float", "float64"):
            raise ProgramUnsupported(f"Cast to {dtype}")
        return replace(x, kind="other")  # usable only as an output
    return replace(x, kind="observed" if (x.kind, kind) == ("observed", "number") else kind)


def _cast_like(_: RowBuilder, inputs: Inputs, __: Attributes) -> Value:
    x, like = inputs[0], inputs[1]
    is_float = isinstance(like, Weight) or (isinstance(like, Tensor) and like.kind == "float")
    if is_float and (isinstance(x, Weight) or (isinstance(x, Tensor) and x.kind == "float")):
        return x
    if is_float and isinstance(x, np.ndarray):
        return x.astype(np.float32)
    raise ProgramUnsupported("CastLike")


SHAPES: Mapping[str, Translation] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Identity": lambda _, inputs, __: cast(Value, inputs[0]),
    "Reshape": _reshape,
    "SequenceAt": _sequence_at,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Translation of each operator that computes no number."""
