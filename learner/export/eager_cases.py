"""What the eager module answers: at three batch sizes, for at least two sets of inputs, with other weights once more.

Everything about a module that no one declares is found here by calling it: where the batch stands in each argument,
which sizes of its outputs follow the batch, which of its numbers vary.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.export.export_verdicts import EXAMPLE_ROWS
from shared.errors import ExportError, SignatureMismatch
from shared.policy.module_signature import ArgumentSpec, ModuleSignature
from shared.policy.structure import Structure, describe, flatten, leaf_names, merge, unflatten

_SMALLEST = (1, 2)  # the second where the module itself does not take a batch of one
_LARGEST = 16
_MOST_GUESSES = 32


@dataclass(frozen=True)
class Case:
    """One call of the eager module: flat inputs, flat outputs. ``inputs_set`` 0 is made of the example itself."""

    batch_size: int | None
    inputs_set: int
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


@dataclass
class EagerModule:
    """A module in eval mode with the structure of its arguments; ``writes_inputs`` once it was seen to do so."""

    module: nn.Module
    arguments: Structure
    classes: dict[str, type[Any]] = field(default_factory=dict)
    writes_inputs: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """The nested result. Whatever the module raises passes through."""
        copies = [tensor.clone() for tensor in tensors]
        value = unflatten(self.arguments, copies, self.classes)
        with torch.no_grad():
            result = self.module(*value["args"], **value["kwargs"])
        if not all(map(_equal, tensors, copies)):
            self.writes_inputs = True
        return result


class EagerCases:
    """All that a program is held to, and the signature that was learned on the way. The first case is traced."""

    def __init__(
        self,
        eager: EagerModule,
        example: Sequence[Tensor],
        *,
        dynamic_batch: bool,
        batch_dims: Sequence[int | None] | None,
    ) -> None:
        """Raises ExportError where the module fails, answers at random, or takes no other batch size."""
        self.eager = eager
        first = _call(eager, example)
        _check_repeatable(first, _call(eager, example))
        self.batch_dims = _batch_dims(eager, example, first, dynamic_batch, batch_dims)
        sizes = self._batch_sizes(example)
        sets = self._input_sets(example, sizes, first)
        results = [(size, n, inputs, _call(eager, inputs)) for n, at in enumerate(sets) for size, inputs in at.items()]
        self.result = _merged([result for *_, result in results])
        self.cases = tuple(
            Case(size, n, tuple(map(_array, inputs)), self._outputs(result)) for size, n, inputs, result in results
        )
        names = leaf_names(eager.arguments), leaf_names(self.result, "result")
        inputs = [
            _spec(name, case, dim)
            for name, case, dim in zip(names[0], self.cases[0].inputs, self.batch_dims, strict=True)
        ]
        outputs = [_output_spec(name, [case.outputs[i] for case in self.cases]) for i, name in enumerate(names[1])]
        self.signature = ModuleSignature(tuple(inputs), tuple(outputs), eager.arguments, self.result)

    @property
    def example(self) -> list[Tensor]:
        """The flat inputs that programs are made with."""
        return [torch.from_numpy(array.copy()) for array in self.cases[0].inputs]

    @property
    def input_sets(self) -> int:
        """How many different sets of inputs there are at each batch size; 1 where the module takes no other values."""
        return 1 + max(case.inputs_set for case in self.cases)

    def at(self, batch_size: int | None, inputs_set: int = 0) -> Case | None:
        """The case of this batch size and set of inputs."""
        return next((c for c in self.cases if (c.batch_size, c.inputs_set) == (batch_size, inputs_set)), None)

    def answer(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """What the module answers as it is now. Raises ExportError."""
        return self._outputs(_call(self.eager, [torch.from_numpy(array.copy()) for array in inputs]))

    def _outputs(self, result: Any) -> tuple[np.ndarray, ...]:
        try:
            leaves = flatten(self.result, result, "the result")
            return tuple(_array(leaf) if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in leaves)
        except (SignatureMismatch, TypeError, RuntimeError) as error:  # numpy has no bfloat16, no sparse layouts, …
            raise ExportError(f"the module's result cannot be flat tensors: {error}") from error

    def _batch_sizes(self, example: Sequence[Tensor]) -> tuple[int | None, ...]:
        if not any(dim is not None for dim in self.batch_dims):
            return (None,)
        ranks = [leaf.ndim for leaf in _tensors(_call(self.eager, resized(example, self.batch_dims, EXAMPLE_ROWS)))]
        for smallest in _SMALLEST:
            try:
                found = [leaf.ndim for leaf in _tensors(self.eager(resized(example, self.batch_dims, smallest)))]
            except Exception as error:  # a module's own code may raise anything
                if smallest == _SMALLEST[-1]:
                    raise ExportError(f"the module fails at batch size {smallest}: {_first_line(error)}") from error
            else:
                if found == ranks:
                    break
        return (EXAMPLE_ROWS, smallest, _LARGEST)

    def _input_sets(
        self, example: Sequence[Tensor], sizes: Iterable[int | None], first: Any
    ) -> list[dict[int | None, list[Tensor]]]:
        """Inputs by batch size: those of the example, and what the module takes of two others made from them."""
        as_given = {size: resized(example, self.batch_dims, size) for size in sizes}
        sets = [as_given]
        for floats, *discretes in _VARIATIONS:
            for discrete in discretes:
                varied = {
                    size: _varied(inputs, np.random.default_rng([7, len(sets)]), floats, discrete)
                    for size, inputs in as_given.items()
                }
                if _is_new(varied, sets) and self._takes(varied.values(), first):
                    sets.append(varied)
                    break
            if len(sets) == 3:
                break
        return sets

    def _takes(self, inputs: Iterable[Sequence[Tensor]], first: Any) -> bool:
        """Inputs that the module does not take, or answers with overflows, are no test of a program."""
        try:
            results = [self.eager(tensors) for tensors in inputs]
            _merged([first, *results])
        except Exception:  # noqa: BLE001 - a module's own code may raise anything
            return False
        return not _is_finite(first) or all(map(_is_finite, results))


InputSet = Mapping[int | None, Sequence[Tensor]]


def _is_new(inputs: InputSet, sets: Iterable[InputSet]) -> bool:
    return not any(all(all(map(_equal, inputs[size], known[size])) for size in inputs) for known in sets)


def tensors_of(leaves: Iterable[Any]) -> list[Tensor]:
    """The example's tensors on the CPU, detached. Raises ExportError for what has no place in a numpy array."""
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
    """The same rows over and over, or the first of them; other tensors as they are."""
    if size is None:
        return [tensor.clone() for tensor in tensors]
    return [
        tensor.clone() if dim is None else tensor.index_select(dim, torch.arange(size) % tensor.shape[dim])
        for tensor, dim in zip(tensors, batch_dims, strict=True)
    ]


def _turned(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Floats of the other sign and another size, so that a branch on them goes the other way."""
    return np.asarray(-array * generator.uniform(0.5, 1.5, array.shape) - 0.1 * np.sign(array.sum()))


def _within_range(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Floats anywhere between the smallest and the largest of the example."""
    return generator.uniform(array.min(), array.max(), array.shape) if array.size else array


def _shuffled(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.permuted(array.ravel()).reshape(array.shape)


def _elsewhere(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Indices and masks: rows and columns change places, as wholes.

    So indices that are distinct within a row or a plane stay so: where two of them collide, a scatter's result is
    whichever comes last, and no program need agree with another on that.
    """
    if array.ndim == 0:
        return array
    return array[generator.permutation(len(array))][..., generator.permutation(array.shape[-1])]


def _opposite(array: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Masks inverted; the smallest index for the largest, and so on; a single number is another one."""
    if array.dtype == np.bool_:
        return ~array
    if array.ndim == 0:
        return np.asarray(array + 1)
    return np.asarray(array.max() - (array - array.min())) if array.size else array


def _any(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Masks at random; indices in other places; a single number is another one."""
    if array.dtype == np.bool_:
        return generator.integers(0, 2, array.shape).astype(np.bool_)
    return np.asarray(array - 1) if array.ndim == 0 else _elsewhere(array, generator)


Vary = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_VARIATIONS: tuple[tuple[Vary, ...], ...] = (
    (_turned, _opposite, _any, _elsewhere),
    (_within_range, _any, _elsewhere),
    (_shuffled, _any, _elsewhere),
)
"""What is done to floats; and to all else, boldest first, until the module takes it."""


def _varied(tensors: Sequence[Tensor], generator: np.random.Generator, floats: Vary, discrete: Vary) -> list[Tensor]:
    varied = []
    for tensor in tensors:
        array = tensor.numpy()
        moved = (floats if array.dtype.kind == "f" else discrete)(array, generator).astype(array.dtype)
        varied.append(torch.from_numpy(np.array(moved, order="C")))
    return varied


def _batch_dims(
    eager: EagerModule,
    example: Sequence[Tensor],
    first: Any,
    dynamic_batch: bool,
    given: Sequence[int | None] | None,
) -> tuple[int | None, ...]:
    if given is not None and len(given) != len(example):
        raise ExportError(f"batch_dims has {len(given)} entries for {len(example)} tensors")
    if not dynamic_batch or not any(tensor.ndim for tensor in example):
        return (None,) * len(example)
    failure: Exception | None = None
    for dims in [tuple(given)] if given is not None else itertools.islice(_guesses(example), _MOST_GUESSES):
        try:
            for size in (EXAMPLE_ROWS, EXAMPLE_ROWS + 2):
                _merged([first, eager(resized(example, dims, size))])
        except Exception as error:  # noqa: BLE001 - a module's own code may raise anything
            failure = failure or error
        else:
            return dims
    sizes = sorted({tensor.shape[0] for tensor in example if tensor.ndim})
    differ = f", and its tensors begin with different sizes {sizes}, so which is the batch is not plain"
    raise ExportError(
        f"the module itself takes no other batch size than the example's ({_first_line(failure)})"
        f"{differ if given is None and len(sizes) > 1 else ''}: name each tensor's batch dimension with "
        "batch_dims, or export for this size alone with dynamic_batch=False"
    ) from failure


def _guesses(example: Sequence[Tensor]) -> Iterable[tuple[int | None, ...]]:
    """Which dimension of each tensor may be the batch, likeliest first."""
    leader = next(tensor for tensor in example if tensor.ndim)
    guesses: list[tuple[int, int, int, tuple[int | None, ...]]] = []
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
    # What all tensors have in common is likelier the batch than what one has alone: nn.LSTM's state has no time.
    return [dims for *_, dims in sorted(guesses, key=lambda guess: guess[:3])]


def _call(eager: EagerModule, tensors: Sequence[Tensor]) -> Any:
    try:
        return eager(tensors)
    except Exception as error:  # a module's own code may raise anything
        raise ExportError(f"the module itself raises {type(error).__name__}: {error}") from error


def _merged(results: Sequence[Any]) -> Structure:
    try:
        structure = describe(results[0], "the result")[0]
        for result in results[1:]:
            structure = merge(structure, describe(result, "the result")[0], "the result")
    except SignatureMismatch as error:
        raise ExportError(str(error)) from error
    return structure


def _check_repeatable(first: Any, second: Any) -> None:
    _merged([first, second])
    if not all(map(_equal, _tensors(first), _tensors(second))):
        raise ExportError(
            "the module answers the same inputs differently, so no program can be held to it: pass its random numbers, "
            "or what it remembers from call to call, in as tensors"
        )


def _tensors(result: Any) -> list[Tensor]:
    return [torch.as_tensor(leaf) for leaf in describe(result, "the result")[1]]


def _is_finite(result: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(result) if tensor.is_floating_point())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124 - NaN equals NaN here


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return np.array(array, order="C")


def _spec(name: str, array: np.ndarray, batch_dim: int | None) -> ArgumentSpec:
    shape = tuple(None if dim == batch_dim else size for dim, size in enumerate(array.shape))
    return ArgumentSpec(name, str(array.dtype), shape)


def _output_spec(name: str, arrays: Sequence[np.ndarray]) -> ArgumentSpec:
    kinds = {(str(array.dtype), array.ndim) for array in arrays}
    if len(kinds) > 1:
        raise ExportError(f"{name} has another dtype or number of dimensions from call to call: {sorted(kinds)}")
    shapes = [array.shape for array in arrays]
    shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
    return ArgumentSpec(name, str(arrays[0].dtype), shape)


def _first_line(error: object) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
