"""Calls of an eager module: at three batch sizes, with at least two sets of inputs where the module accepts them.

Batch dimensions of arguments, ranges of named sizes, sizes of outputs, and numbers that vary are found by calling the
module.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from msgspec import UNSET
from torch import Tensor

from learner.export.inputs.batch_dims import BatchDims, find_batch_dims, guess_batch_dims
from learner.export.inputs.dynamic_sizes import (
    EXAMPLE_ROWS,
    LARGER_SIZES,
    NamedDims,
    Sizes,
    find_ranges,
    program_sizes,
    refused_size,
    resized,
    sizes_to_check,
    sum_of,
)
from learner.export.inputs.eager_module import EagerModule, equal, first_line, is_finite, merged, result_tensors
from learner.export.inputs.input_variations import MAGNITUDES, VARIATIONS, varied, widened
from learner.export.program_checks import ATOL, Case, affordable_sizes
from shared.engines.eager import module_tensors
from shared.engines.torch_arrays import array_of, tensor_of
from shared.errors import ExportError, ProbeMismatch, SignatureMismatch
from shared.policy.nested_values import flatten, leaf_names
from shared.policy.probe import compare_outputs
from shared.policy.signature import ArgumentSpec, ModuleSignature
from shared.policy.tensor_limits import NamedSize
from shared.policy.weights import is_float

_SMALLEST = (1, 2)  # the second for a module that does not accept a batch of one
_LARGEST = 16
_INPUT_SETS = 3

_Inputs = Mapping[int | None, list[Tensor]]
"""One set of inputs, by batch size."""


class ModuleCases:
    """The calls that a program must reproduce, and the signature learned from them. ``cases[0]`` is the example."""

    def __init__(
        self,
        eager: EagerModule,
        example: Sequence[Tensor],
        *,
        dynamic_batch: bool,
        batch_dims: Sequence[int | None] | None,
        named: NamedDims | None = None,
    ) -> None:
        """Raises ExportError if the module fails, is not deterministic, or accepts no other batch or named size."""
        self.eager = eager
        self.named = named or NamedDims()
        self._made_with = program_sizes(self.named)
        example = self.named.resized(example, self._made_with)
        first, again = eager.checked(example), eager.checked(example)
        merged([first, again])
        if not all(map(equal, result_tensors(first), result_tensors(again))):
            raise ExportError(
                "pass random numbers, and memory from call to call, in as tensors: the module answers the same inputs "
                "differently, so no program can be compared with it"
            )
        self.batch_dims = find_batch_dims(eager, example, first, self._guesses(example, dynamic_batch, batch_dims))
        batch_sizes = self._batch_sizes(example)
        sets = self._input_sets(example, batch_sizes, first)
        calls = [(Case(size, n, (), (), sizes=self._made_with), at[size]) for n, at in enumerate(sets) for size in at]
        self.sizes = self._ranges(sets[0][batch_sizes[0]], first)
        calls += self._resized_calls(sets[0], first)
        results = [(case, inputs, eager.checked(inputs)) for case, inputs in calls]
        self.result = merged([result for *_, result in results])
        self.cases = tuple(self._case(case, inputs, result) for case, inputs, result in results)
        self.cases += tuple(self._larger_cases(example, first))
        self.cases += tuple(self._wide_cases(sets[0], first))
        self.signature = self._signature()

    def _signature(self) -> ModuleSignature:
        dims = self.named.dims or [{} for _ in self.batch_dims]
        inputs = zip(leaf_names(self.eager.arguments), self.cases[0].inputs, self.batch_dims, dims, strict=True)
        outputs = zip(leaf_names(self.result, "result"), *(case.outputs for case in self.cases), strict=True)
        return ModuleSignature(
            tuple(_input_spec(*found) for found in inputs),
            tuple(_output_spec(name, arrays, [case.sizes for case in self.cases]) for name, *arrays in outputs),
            self.eager.arguments,
            self.result,
            self.sizes or UNSET,
            tuple(self.eager.parameters) or UNSET,
        )

    def _case(self, case: Case, inputs: Sequence[Tensor], result: Any) -> Case:
        return replace(case, inputs=tuple(map(_array, inputs)), outputs=self._outputs(result))

    def _guesses(
        self, example: Sequence[Tensor], dynamic_batch: bool, given: Sequence[int | None] | None
    ) -> list[BatchDims] | None:
        """Return the possible batch dimensions, likeliest first; None for a module with fixed sizes."""
        if given is not None and len(given) != len(example):
            raise ExportError(f"batch_dims has {len(given)} entries for {len(example)} tensors")
        for number, (dim, names) in enumerate(zip(given or (), self.named.dims, strict=False)):
            if dim in names:
                raise ExportError(
                    f"leave dimension {dim} of tensor {number} out of dynamic, or out of batch_dims: it cannot be both"
                )
        if not dynamic_batch or not any(tensor.ndim for tensor in example):
            return None
        return (guess_batch_dims(example, self.named) or None) if given is None else [tuple(given)]

    def _ranges(self, given: Sequence[Tensor], first: Any) -> tuple[NamedSize, ...]:
        n_weights = sum(tensor.numel() for tensor in module_tensors(self.eager.module).values())

        def attempt(sizes: Sizes) -> Exception | None:
            return self._refusal([self.named.resized(given, sizes)], first)

        def is_affordable(sizes: Sizes) -> bool:
            numbers = sum(tensor.numel() for tensor in self.named.resized(given, sizes))
            return bool(affordable_sizes([1], numbers, n_weights * EXAMPLE_ROWS * max(sizes.values())))

        return find_ranges(self.named, self._made_with, attempt, is_affordable)

    def _resized_calls(self, given: _Inputs, first: Any) -> Iterator[tuple[Case, list[Tensor]]]:
        """Yield calls with other named sizes, at one batch size after another. Sums over many numbers round more."""
        rows = sorted(given, key=lambda size: size or 0)
        for number, (sizes, is_required) in enumerate(sizes_to_check(self.sizes, self._made_with)):
            batch_size = rows[number if number < len(rows) else 0]
            inputs = self.named.resized(given[batch_size], sizes)
            if (error := self._refusal([inputs], first)) is None:
                scale = max(1.0, max(sizes.values()) / _LARGEST)
                yield Case(batch_size, 0, (), (), scale=scale, sizes=sizes, is_resized=True), inputs
            elif is_required:
                raise refused_size(sizes, error) from error

    def answer(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the flat outputs of the module with its current weights. Raises ExportError."""
        return self._outputs(self.eager.checked([tensor_of(array.copy()) for array in inputs]))

    def _outputs(self, result: Any) -> tuple[np.ndarray, ...]:
        try:
            leaves = flatten(self.result, result, "the result")
            if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves):
                raise ExportError(
                    "return torch.view_as_real(y): a result is complex, and programs take and return real numbers"
                )
            return tuple(_array(leaf) if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in leaves)
        except (
            SignatureMismatch,
            TypeError,
            RuntimeError,
        ) as error:  # numpy has no sparse layouts, no quantized numbers
            raise ExportError(f"the module's result cannot be flat tensors: {error}") from error

    def _batch_sizes(self, example: Sequence[Tensor]) -> tuple[int | None, ...]:
        if not any(dim is not None for dim in self.batch_dims):
            return (None,)
        ranks = [
            leaf.ndim for leaf in result_tensors(self.eager.checked(resized(example, self.batch_dims, EXAMPLE_ROWS)))
        ]
        for smallest in _SMALLEST:
            try:
                found = [leaf.ndim for leaf in result_tensors(self.eager(resized(example, self.batch_dims, smallest)))]
            except Exception as error:  # a module's own code may raise anything
                if smallest == _SMALLEST[-1]:
                    raise ExportError(f"the module fails at batch size {smallest}: {first_line(error)}") from error
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
            case = Case(size, 0, (), (), scale=max(1.0, size / _LARGEST), sizes=self._made_with)
            yield self._case(case, inputs, self.eager(inputs))

    def _wide_cases(self, given: _Inputs, first: Any) -> Iterator[Case]:
        """Yield calls with inputs far from the example, as far as the module accepts them and is not chaotic there.

        A module that returns integers is left out: saturated numbers are equal, and programs break ties as they like.
        """
        size = max(given, key=lambda rows: rows or 0)
        if not all(tensor.is_floating_point() for tensor in result_tensors(first)):
            return
        for magnitude in MAGNITUDES:
            generator = np.random.default_rng([7, int(magnitude)])
            inputs, near = [], []
            for tensor in given[size]:
                array = array_of(tensor)
                wide = widened(array, magnitude, generator) if is_float(array.dtype) else array
                unit = max(1e-6, torch.finfo(tensor.dtype).eps) if is_float(array.dtype) else 0.0
                moved = wide * (1 + generator.choice([-unit, unit], array.shape)) if unit else wide
                inputs.append(tensor_of(np.array(wide)))
                near.append(tensor_of(np.array(moved).astype(array.dtype)))
            if _is_new({size: inputs}, [{size: given[size]}]) and self._accepts([inputs, near], first):
                case = self._case(
                    Case(size, 1, (), (), magnitude, magnitude, self._made_with), inputs, self.eager(inputs)
                )
                if not self._is_chaotic(case, self._outputs(self.eager(near))):
                    yield case

    def _is_chaotic(self, case: Case, near: Sequence[np.ndarray]) -> bool:
        """Return True when the outputs for inputs that differ by rounding alone differ by half of the tolerances."""
        names = leaf_names(self.result, "result")
        try:
            compare_outputs(names, case.outputs, near, ATOL, ATOL, scale=case.scale / 2)
        except ProbeMismatch:
            return True
        return False

    def _accepts(self, inputs: Iterable[Sequence[Tensor]], first: Any) -> bool:
        return self._refusal(inputs, first) is None

    def _refusal(self, inputs: Iterable[Sequence[Tensor]], first: Any) -> Exception | None:
        """Return the error for inputs that the module refuses, or for which its result overflows; None for others."""
        try:
            results = [self.eager(tensors) for tensors in inputs]
            merged([first, *results])
        except Exception as error:  # noqa: BLE001 - a module's own code may raise anything
            return error
        if is_finite(first) and not all(map(is_finite, results)):
            return ExportError("its result is not finite")
        return None


def _is_new(inputs: _Inputs, sets: Iterable[_Inputs]) -> bool:
    return not any(all(all(map(equal, inputs[size], known[size])) for size in inputs) for known in sets)


def _array(tensor: Tensor) -> np.ndarray:
    return np.array(array_of(tensor.detach().cpu()), order="C")


def _input_spec(name: str, array: np.ndarray, batch_dim: int | None, dims: Mapping[int, str]) -> ArgumentSpec:
    shape = tuple(None if dim == batch_dim else dims.get(dim, size) for dim, size in enumerate(array.shape))
    return ArgumentSpec(name, array.dtype.name, shape)


def _output_spec(name: str, arrays: Sequence[np.ndarray], sizes: Sequence[Sizes]) -> ArgumentSpec:
    kinds = {(array.dtype.name, array.ndim) for array in arrays}
    if len(kinds) > 1:
        raise ExportError(f"{name} has another dtype or number of dimensions from call to call: {sorted(kinds)}")
    shape = tuple(_output_size(found, sizes) for found in zip(*(array.shape for array in arrays), strict=True))
    return ArgumentSpec(name, arrays[0].dtype.name, shape)


def _output_size(found: Sequence[int], sizes: Sequence[Sizes]) -> int | str | None:
    return found[0] if len(set(found)) == 1 else sum_of(found, sizes)
