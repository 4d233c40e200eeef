"""The batch dimensions of a module's arguments, found by calling the module."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from learner.export.inputs.dynamic_sizes import EXAMPLE_ROWS, NamedDims, resized
from learner.export.inputs.eager_module import EagerModule, first_line, merged
from shared.errors import ExportError

_MOST_GUESSES = 32

BatchDims = tuple[int | None, ...]
"""The batch dimension of each tensor, or None for a tensor without one."""


def guess_batch_dims(example: Sequence[Tensor], named: NamedDims | None = None) -> list[BatchDims]:
    """Return the possible batch dimensions of ``example``, likeliest first. Named dimensions are none."""
    taken = named.dims if named is not None and named.dims else [{} for _ in example]
    free = [[dim for dim in range(t.ndim) if dim not in names] for t, names in zip(example, taken, strict=True)]
    if not any(free):
        return []
    number = next(number for number, unnamed in enumerate(free) if unnamed)
    leader = example[number]
    guesses: list[tuple[int, int, int, BatchDims]] = []
    for lead_dim in [dim for dim in free[number] if dim < 2]:
        rows = leader.shape[lead_dim]
        options: list[list[int | None]] = []
        for tensor, unnamed in zip(example, free, strict=True):
            alike: list[int | None] = [dim for dim in unnamed if tensor.shape[dim] == rows]
            options.append([lead_dim] if tensor is leader else [*alike, None])
        choices = itertools.product(*(range(len(dims)) for dims in options))
        for choice in itertools.islice(choices, 4096):
            dims = tuple(dims[i] for dims, i in zip(options, choice, strict=True))
            guesses.append((dims.count(None), lead_dim, sum(choice), dims))
    # A size that all tensors share is likelier the batch than one of a single tensor: nn.LSTM's state has no time.
    return [dims for *_, dims in sorted(guesses, key=lambda guess: guess[:3])]


def find_batch_dims(
    eager: EagerModule, example: Sequence[Tensor], first: Any, guesses: Sequence[BatchDims] | None
) -> BatchDims:
    """Return the first of ``guesses`` with which the module takes other batch sizes. Raises ExportError."""
    if guesses is None:
        return (None,) * len(example)
    failure: Exception | None = None
    for dims in itertools.islice(guesses, _MOST_GUESSES):
        try:
            for size in (EXAMPLE_ROWS, EXAMPLE_ROWS + 2):
                merged([first, eager(resized(example, dims, size))])
        except Exception as error:  # noqa: BLE001 - a module's own code may raise anything
            failure = failure or error
        else:
            return dims
    if any(tensor.numel() == 0 for tensor in example):
        raise ExportError(
            "pass an example with at least one row: an argument is empty, so no other batch size can be made of it"
        ) from failure
    sizes = sorted({tensor.shape[0] for tensor in example if tensor.ndim})
    differ = f"; its tensors begin with different sizes {sizes}" if len(guesses) != 1 and len(sizes) > 1 else ""
    raise ExportError(
        "name each tensor's batch dimension with batch_dims, or export for the example's size alone with "
        f"dynamic_batch=False: the module itself takes no other batch size ({first_line(failure)}){differ}"
    ) from failure
