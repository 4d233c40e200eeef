"""Relations that hold for every policy that is a pure function of its inputs, row by row.

A probe shows the outputs of a program for some rows. The relations show that nothing else decides them: neither the
other rows of the batch, their number or their order, nor earlier calls. They need no expected outputs, so they hold at
batch sizes for which no probe was computed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from shared.errors import PolicyOutputError, ProbeMismatch, ProgramImpure, SignatureMismatch
from shared.policy.probe import compare, make_inputs
from shared.policy.signature import PolicySignature

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]

COMPANY_ROWS = 8
_MOST_ROWS = COMPANY_ROWS  # a published probe's; a longer one makes no longer check
_SEED = 7

CHANGED_WEIGHTS = "keep parameters and buffers as they are in forward: a call changed the weights"


@lru_cache(maxsize=8)  # versions of one program have equal signatures
def company(signature: PolicySignature) -> Sequence[np.ndarray]:
    """Return COMPANY_ROWS rows that keep others company in a batch. Their own choices may be ties."""
    return make_inputs(signature, COMPANY_ROWS, _SEED)


@dataclass(frozen=True)
class PurityCheck:
    """Calls of one program in batches of 1, ``batch_size`` and more rows, which have to agree about each row.

    Args:
        inputs: Rows with clear choices, as in a probe: rounding, which depends on the batch size, changes no choice.
        atol, rtol: The tolerances of floats of one row in two batches. The same batch has to give the same bits.
        fewest_rows: The rows of the smallest batch; all of them are one row repeated.
        most_rows: The least rows of the largest batch, which has more than ``batch_size``.
    """

    signature: PolicySignature
    inputs: Sequence[np.ndarray]
    batch_size: int
    atol: float
    rtol: float
    fewest_rows: int = 1
    most_rows: int = 64  # code that treats small batches apart rarely stops later

    def check_repeats(self, run: Run) -> None:
        """Raise ProgramImpure unless two calls with the same inputs give the same bits and change no input."""
        inputs = self._batch(self._own_rows)
        _check_same_bits(self._call(run, inputs), self._call(run, inputs))

    def check(self, run: Run) -> None:
        """Raise ProgramImpure unless ``run`` is a pure function of each row; its last call has ``batch_size`` rows."""
        own = self._own_rows
        own_inputs = self._batch(own)
        outputs = self._call(run, own_inputs)
        first = [output.copy() for output in outputs]
        alone = [self._call(run, self._batch(np.full(self.fewest_rows, row))) for row in range(self._rows)]
        others = [(index, self._call(run, self._batch(index))) for index in self._other_batches()]
        if not _have_same_bits(first, outputs):
            raise ProgramImpure(
                "return new arrays from each call: a later call overwrote the outputs of an earlier one"
            )
        _check_same_bits(first, self._call(run, own_inputs))
        expected = [np.stack(rows) for rows in zip(*([output[0] for output in found] for found in alone), strict=True)]
        for index, found in ((own, first), *others):
            self._check_rows(expected, index, found)

    @cached_property
    def _rows(self) -> int:
        return min(_MOST_ROWS, len(self.inputs[0]))

    @property
    def _pool_rows(self) -> int:
        return 2 * self._rows

    @property
    def _own_rows(self) -> np.ndarray:
        return np.arange(self.batch_size) % self._pool_rows

    @cached_property
    def _pool(self) -> list[np.ndarray]:
        """The rows that are compared, then as many others."""
        others = company(self.signature)
        return [
            np.concatenate((array[: self._rows], other[: self._rows]))
            for array, other in zip(self.inputs, others, strict=True)
        ]

    def _batch(self, index: np.ndarray) -> list[np.ndarray]:
        return [array[index] for array in self._pool]

    def _other_batches(self) -> Iterator[np.ndarray]:
        """Yield the rows in use in another order, and more of them."""
        generator = np.random.default_rng(_SEED)
        if self.batch_size > 1:
            yield generator.permutation(self._own_rows)
        yield generator.permutation(np.arange(max(self.most_rows, self.batch_size + 1)) % self._pool_rows)

    def _call(self, run: Run, inputs: list[np.ndarray]) -> Sequence[np.ndarray]:
        before = [array.copy() for array in inputs]
        rows = inputs[0].shape[0]
        try:
            outputs = run(inputs)
            self.signature.check_outputs(outputs, rows)
        except (PolicyOutputError, SignatureMismatch) as error:
            raise ProgramImpure(f"accept batches of any size: with {rows} rows the program failed: {error}") from error
        for spec, array, original in zip(self.signature.inputs, inputs, before, strict=True):
            if not np.array_equal(array, original):
                raise ProgramImpure(f"copy an input before you change it: the program overwrote {spec.name}")
        for spec, output in zip(self.signature.outputs, outputs, strict=True):
            if not output.flags.c_contiguous or any(np.may_share_memory(output, array) for array in inputs):
                raise ProgramImpure(f"return new arrays: {spec.name} is not contiguous, or shares memory with an input")
        return outputs

    def _check_rows(self, expected: Sequence[np.ndarray], index: np.ndarray, found: Sequence[np.ndarray]) -> None:
        known = np.flatnonzero(index < self._rows)
        wanted = [array[index[known]] for array in expected]
        try:
            compare(wanted, [array[known] for array in found], self.signature, self.atol, self.rtol)
        except ProbeMismatch as error:
            raise ProgramImpure(
                "compute each row from that row alone: a row's outputs change with the other rows of its batch or with "
                f"their number: {error}"
            ) from error


def _check_same_bits(first: Sequence[np.ndarray], again: Sequence[np.ndarray]) -> None:
    if not _have_same_bits(first, again):
        raise ProgramImpure(
            "remove random numbers and counters from the policy, and take randomness from its input noise: the same "
            "inputs gave other outputs in a later call"
        )


def _have_same_bits(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(one.tobytes() == other.tobytes() for one, other in zip(some, others, strict=True))
