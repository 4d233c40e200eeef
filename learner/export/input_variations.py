"""Inputs made from an example: other batch sizes, other values, and guesses at where the batch dimension is."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from shared.errors import ExportError

Vary = Callable[[np.ndarray, np.random.Generator], np.ndarray]
BatchDims = tuple[int | None, ...]
"""The batch dimension of each tensor, or None for a tensor without one."""


def tensors_of(leaves: Iterable[np.ndarray | Tensor]) -> list[Tensor]:
    """Return copies on the CPU, detached. Raises ExportError for a tensor that numpy cannot hold."""
    tensors = []
    for leaf in leaves:
        tensor = torch.from_numpy(np.array(leaf)) if isinstance(leaf, np.ndarray) else leaf.detach().cpu().contiguous()
        try:
            tensor.numpy()
        except (TypeError, RuntimeError) as error:
            raise ExportError(f"an argument cannot cross into a program: {error}") from error
        tensors.append(tensor.clone())
    return tensors


def resized(tensors: Sequence[Tensor], batch_dims: Sequence[int | None], size: int | None) -> list[Tensor]:
    """Return copies with ``size`` rows, repeated or cut; tensors without a batch keep their size."""
    if size is None:
        return [tensor.clone() for tensor in tensors]
    return [
        tensor.clone() if dim is None else tensor.index_select(dim, torch.arange(size) % tensor.shape[dim])
        for tensor, dim in zip(tensors, batch_dims, strict=True)
    ]


def guess_batch_dims(example: Sequence[Tensor]) -> list[BatchDims]:
    """Return the possible batch dimensions of ``example``, likeliest first."""
    leader = next(tensor for tensor in example if tensor.ndim)
    guesses: list[tuple[int, int, int, BatchDims]] = []
    for lead_dim in range(min(2, leader.ndim)):
        rows = leader.shape[lead_dim]
        options: list[list[int | None]] = []
        for tensor in example:
            alike: list[int | None] = [dim for dim, size in enumerate(tensor.shape) if size == rows]
            options.append([lead_dim] if tensor is leader else [*alike, None])
        choices = itertools.product(*(range(len(dims)) for dims in options))
        for choice in itertools.islice(choices, 4096):
            dims = tuple(dims[i] for dims, i in zip(options, choice, strict=True))
            guesses.append((dims.count(None), lead_dim, sum(choice), dims))
    # A size that all tensors share is likelier the batch than one of a single tensor: nn.LSTM's state has no time.
    return [dims for *_, dims in sorted(guesses, key=lambda guess: guess[:3])]


def varied(tensors: Sequence[Tensor], generator: np.random.Generator, floats: Vary, discrete: Vary) -> list[Tensor]:
    """Return ``floats`` of each float tensor and ``discrete`` of each other tensor."""
    found = []
    for tensor in tensors:
        array = tensor.numpy()
        moved = (floats if array.dtype.kind == "f" else discrete)(array, generator).astype(array.dtype)
        found.append(torch.from_numpy(np.array(moved, order="C")))
    return found


def _negated(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Change sign and size, so that a branch on the values goes the other way."""
    return np.asarray(-array * generator.uniform(0.5, 1.5, array.shape) - 0.1 * np.sign(array.sum()))


def _within_range(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(array.min(), array.max(), array.shape) if array.size else array


def _shuffled(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.permuted(array.ravel()).reshape(array.shape)


def _permuted(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Permute whole rows and whole columns, so that indices which are distinct within a row or plane stay distinct.

    Where two indices collide, a scatter keeps either value, and programs need not agree.
    """
    if array.ndim == 0:
        return array
    return array[generator.permutation(len(array))][..., generator.permutation(array.shape[-1])]


def _opposite(array: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Invert masks, mirror indices between the smallest and the largest, and increment a single number."""
    if array.dtype == np.bool_:
        return ~array
    if array.ndim == 0:
        return np.asarray(array + 1)
    return np.asarray(array.max() - (array - array.min())) if array.size else array


def _random(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw masks at random, permute indices, and decrement a single number."""
    if array.dtype == np.bool_:
        return generator.integers(0, 2, array.shape).astype(np.bool_)
    return np.asarray(array - 1) if array.ndim == 0 else _permuted(array, generator)


VARIATIONS: tuple[tuple[Vary, tuple[Vary, ...]], ...] = (
    (_negated, (_opposite, _random, _permuted)),
    (_within_range, (_random, _permuted)),
    (_shuffled, (_random, _permuted)),
)
"""Variations of floats, each with variations of all else to try, boldest first, until the module accepts the inputs."""
