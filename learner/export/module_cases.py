"""Calls of an eager module: at three batch sizes, with at least two sets of inputs where the module accepts them.

Batch dimensions of arguments, sizes of outputs, and numbers that vary are found by calling the module.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.export.input_variations import MAGNITUDES, VARIATIONS, varied, widened
from learner.export.program_checks import (
    ATOL,
    EXAMPLE_ROWS,
    LARGER_SIZES,
    Case,
    affordable_sizes,
)
from shared.engines.eager import module_tensors
from shared.errors import ExportError, SignatureMismatch
from shared.policy.nested_values import Structure, describe, flatten, leaf_names, merge, unflatten
from shared.policy.signature import ArgumentSpec, ModuleSignature

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
            remedy = "pass float32 (x.float()): " if tensor.dtype == torch.bfloat16 else ""
            raise ExportError(f"{remedy}an argument cannot cross into a program: {error}") from error
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


_SMALLEST = (1, 2)  # the second for a module that does not accept a batch of one
_LARGEST = 16
_MOST_GUESSES = 32
_INPUT_SETS = 3

_Inputs = Mapping[int | None, list[Tensor]]
"""One set of inputs, by batch size."""


@dataclass
class EagerModule:
    """A module in eval mode with the structure of its arguments; a call sets ``writes_inputs`` if it changes them."""

    module: nn.Module
    arguments: Structure
    classes: dict[str, type[Any]] = field(default_factory=dict)
    writes_inputs: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        copies = [tensor.clone() for tensor in tensors]
        value = unflatten(self.arguments, copies, self.classes)
        with torch.no_grad():
            result = self.module(*value["args"], **value["kwargs"])
        if not all(map(_equal, tensors, copies)):
            self.writes_inputs = True
        return result

    def checked(self, tensors: Sequence[Tensor]) -> Any:
        try:
            return self(tensors)
        except Exception as error:  # a module's own code may raise anything
            raise ExportError(f"the module itself raises {type(error).__name__}: {error}") from error


class ModuleCases:
    """The calls that a program must reproduce, and the signature learned from them. ``cases[0]`` is the example."""

    def __init__(
        self,
        eager: EagerModule,
        example: Sequence[Tensor],
        *,
        dynamic_batch: bool,
        batch_dims: Sequence[int | None] | None,
    ) -> None:
        """Raises ExportError if the module fails, is not deterministic, or accepts no other batch size."""
        self.eager = eager
        first, again = eager.checked(example), eager.checked(example)
        _merged([first, again])
        if not all(map(_equal, _tensors(first), _tensors(again))):
            raise ExportError(
                "pass random numbers, and memory from call to call, in as tensors: the module answers the same inputs "
                "differently, so no program can be compared with it"
            )
        self.batch_dims = _batch_dims(eager, example, first, dynamic_batch, batch_dims)
        sizes = self._batch_sizes(example)
        sets = self._input_sets(example, sizes, first)
        results = [(size, n, at[size], eager.checked(at[size])) for n, at in enumerate(sets) for size in at]
        self.result = _merged([result for *_, result in results])
        self.cases = tuple(
            Case(size, n, tuple(map(_array, inputs)), self._outputs(result)) for size, n, inputs, result in results
        )
        self.cases += tuple(self._larger_cases(example, first))
        self.cases += tuple(self._wide_cases(sets[0], first))
        inputs = zip(leaf_names(eager.arguments), self.cases[0].inputs, self.batch_dims, strict=True)
        outputs = zip(leaf_names(self.result, "result"), *(case.outputs for case in self.cases), strict=True)
        self.signature = ModuleSignature(
            tuple(_input_spec(name, array, dim) for name, array, dim in inputs),
            tuple(_output_spec(name, arrays) for name, *arrays in outputs),
            eager.arguments,
            self.result,
        )

    def answer(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the flat outputs of the module with its current weights. Raises ExportError."""
        return self._outputs(self.eager.checked([torch.from_numpy(array.copy()) for array in inputs]))

    def _outputs(self, result: Any) -> tuple[np.ndarray, ...]:
        try:
            leaves = flatten(self.result, result, "the result")
            return tuple(_array(leaf) if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in leaves)
        except (SignatureMismatch, TypeError, RuntimeError) as error:  # numpy has no bfloat16, no sparse layouts, …
            raise ExportError(f"the module's result cannot be flat tensors: {error}") from error

    def _batch_sizes(self, example: Sequence[Tensor]) -> tuple[int | None, ...]:
        if not any(dim is not None for dim in self.batch_dims):
            return (None,)
        ranks = [leaf.ndim for leaf in _tensors(self.eager.checked(resized(example, self.batch_dims, EXAMPLE_ROWS)))]
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

    def _input_sets(self, example: Sequence[Tensor], sizes: Iterable[int | None], first: Any) -> list[_Inputs]:
        as_given: _Inputs = {size: resized(example, self.batch_dims, size) for size in sizes}
        sets = [as_given]
        for floats, discretes in VARIATIONS:
            for discrete in discretes:
                inputs: _Inputs = {
                    size: varied(tensors, np.random.default_rng([7, len(sets)]), floats, discrete)
                    for size, tensors in as_given.items()
                }
                if _is_new(inputs, sets) and self._accepts(inputs.values(), first):
                    sets.append(inputs)
                    break
            if len(sets) == _INPUT_SETS:
                break
        return sets

    def _larger_cases(self, example: Sequence[Tensor], first: Any) -> Iterator[Case]:
        """Yield calls with more rows, as far as the module accepts them. Sums over the rows round more."""
        if all(dim is None for dim in self.batch_dims):
            return
        numbers = sum(tensor.numel() for tensor in resized(example, self.batch_dims, 1))
        n_weights = sum(tensor.numel() for tensor in module_tensors(self.eager.module).values())
        for size in affordable_sizes(LARGER_SIZES, numbers, n_weights):
            inputs = resized(example, self.batch_dims, size)
            if not self._accepts([inputs], first):
                break
            case = Case(size, 0, tuple(map(_array, inputs)), self._outputs(self.eager(inputs)))
            yield replace(case, scale=max(1.0, size / _LARGEST))

    def _wide_cases(self, given: _Inputs, first: Any) -> Iterator[Case]:
        """Yield calls with inputs far from the example, as far as the module accepts them and is not chaotic there.

        A module that returns integers is left out: saturated numbers are equal, and programs break ties as they like.
        """
        size = max(given, key=lambda rows: rows or 0)
        if not all(tensor.is_floating_point() for tensor in _tensors(first)):
            return
        for magnitude in MAGNITUDES:
            generator = np.random.default_rng([7, int(magnitude)])
            inputs, near = [], []
            for tensor in given[size]:
                array = tensor.numpy()
                if array.dtype.kind == "f":
                    array = widened(array, magnitude, generator)
                moved = array * (1 + generator.choice([-1e-6, 1e-6], array.shape)) if array.dtype.kind == "f" else array
                inputs.append(torch.from_numpy(np.array(array)))
                near.append(torch.from_numpy(np.array(moved, array.dtype)))
            if _is_new({size: inputs}, [{size: given[size]}]) and self._accepts([inputs, near], first):
                outputs, others = (self._outputs(self.eager(tensors)) for tensors in (inputs, near))
                tolerance = 0.5 * ATOL * magnitude
                if all(np.allclose(a, b, tolerance, tolerance) for a, b in zip(outputs, others, strict=True)):
                    yield Case(size, 1, tuple(map(_array, inputs)), outputs, magnitude, magnitude)

    def _accepts(self, inputs: Iterable[Sequence[Tensor]], first: Any) -> bool:
        """Return False for inputs that the module refuses, or for which its result overflows: they test no program."""
        try:
            results = [self.eager(tensors) for tensors in inputs]
            _merged([first, *results])
        except Exception:  # noqa: BLE001 - a module's own code may raise anything
            return False
        return not _is_finite(first) or all(map(_is_finite, results))


def _batch_dims(
    eager: EagerModule, example: Sequence[Tensor], first: Any, dynamic_batch: bool, given: Sequence[int | None] | None
) -> BatchDims:
    if given is not None and len(given) != len(example):
        raise ExportError(f"batch_dims has {len(given)} entries for {len(example)} tensors")
    if not dynamic_batch or not any(tensor.ndim for tensor in example):
        return (None,) * len(example)
    failure: Exception | None = None
    guesses = guess_batch_dims(example) if given is None else [tuple(given)]
    for dims in itertools.islice(guesses, _MOST_GUESSES):
        try:
            for size in (EXAMPLE_ROWS, EXAMPLE_ROWS + 2):
                _merged([first, eager(resized(example, dims, size))])
        except Exception as error:  # noqa: BLE001 - a module's own code may raise anything
            failure = failure or error
        else:
            return dims
    if any(tensor.numel() == 0 for tensor in example):
        raise ExportError(
            "pass an example with at least one row: an argument is empty, so no other batch size can be made of it"
        ) from failure
    sizes = sorted({tensor.shape[0] for tensor in example if tensor.ndim})
    differ = f"; its tensors begin with different sizes {sizes}" if given is None and len(sizes) > 1 else ""
    raise ExportError(
        "name each tensor's batch dimension with batch_dims, or export for the example's size alone with "
        f"dynamic_batch=False: the module itself takes no other batch size ({_first_line(failure)}){differ}"
    ) from failure


def _merged(results: Sequence[Any]) -> Structure:
    try:
        structure = describe(results[0], "the result")[0]
        for result in results[1:]:
            structure = merge(structure, describe(result, "the result")[0], "the result")
    except SignatureMismatch as error:
        raise ExportError(str(error)) from error
    return structure


def _is_new(inputs: _Inputs, sets: Iterable[_Inputs]) -> bool:
    return not any(all(all(map(_equal, inputs[size], known[size])) for size in inputs) for known in sets)


def _tensors(result: Any) -> list[Tensor]:
    return [torch.as_tensor(leaf) for leaf in describe(result, "the result")[1]]


def _is_finite(result: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(result) if tensor.is_floating_point())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124 - NaN equals NaN here


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return np.array(array, order="C")


def _input_spec(name: str, array: np.ndarray, batch_dim: int | None) -> ArgumentSpec:
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
