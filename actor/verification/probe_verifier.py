"""Verifiers that compare an engine with its version's probe: golden inputs and the learner's outputs for them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from shared.engines.engine import Engine
from shared.engines.purity import CHANGED_WEIGHTS, COMPANY_ROWS, PurityCheck, company
from shared.errors import ManifestError, PolicyOutputError, ProgramError, ProgramImpure
from shared.policy.manifest import Manifest
from shared.policy.probe import Probe, check_outputs, compare, compare_outputs, decode_probe
from shared.policy.signature import ModuleSignature

_MODULE_CALLS = 3


class ProbeVerifier:
    """Compares engines of a policy with its probe, at the probe's batch size and at the one in use.

    The batch in use has rows of the probe among other rows. So weights that let rows influence each other are found in
    each version, although ``verify_purity`` sees a program only once. If the batch holds the whole probe, one call is
    enough. A verified engine is warm for ``batch_size``. The engines compute the policy's value only with ``values``.

    Attributes:
        outputs: positions, in the version's signature, of the outputs that the engines return.
        probe_inputs, inputs: the probe's own inputs, read-only, and inputs of ``batch_size`` rows.
    """

    def __init__(self, manifest: Manifest, probe: Probe, batch_size: int, *, values: bool = True) -> None:
        rows = probe.inputs[0].shape[0]
        if rows < 1:
            raise ManifestError("the probe has no rows; expected at least one")
        signature = manifest.signature
        self._signature = signature if values else signature.without_value
        self._tolerance = manifest.probe
        self._batch_size = batch_size
        self._covers_all = batch_size > rows
        row = _mixed_rows(rows, batch_size)
        self._known = np.flatnonzero(row < rows)
        self.outputs = tuple(signature.outputs.index(spec) for spec in self._signature.outputs)
        self.probe_inputs: Sequence[np.ndarray] = probe.inputs
        pool = [np.concatenate(both) for both in zip(probe.inputs, company(signature), strict=True)]
        self.inputs: Sequence[np.ndarray] = _rows(pool, row)
        self._made_outputs = tuple(probe.outputs[position] for position in self.outputs)
        self._known_outputs = _rows(self._made_outputs, row[self._known])

    def verify(self, run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]) -> float:
        """Return the largest difference of the outputs of ``run`` from the probe. Raise ProbeMismatch if too large."""
        signature, atol, rtol = self._signature, self._tolerance.atol, self._tolerance.rtol
        difference = 0.0
        if not self._covers_all:
            difference = compare(self._made_outputs, run(self.probe_inputs), signature, atol, rtol)
        found = run(self.inputs)
        check_outputs(signature, found, self._batch_size)
        known = [output[self._known] for output in found]
        return max(difference, compare(self._known_outputs, known, signature, atol, rtol))

    def verify_purity(self, engine: Engine, weights: Mapping[str, np.ndarray]) -> None:
        """Raise ProgramImpure unless the outputs depend on each row and on ``weights`` alone (``PurityCheck``).

        The calls take longer than ``verify``: once per program, engine and batch size is enough.
        """
        signature, tolerance = self._signature, self._tolerance
        check = PurityCheck(signature, self.probe_inputs, self._batch_size, tolerance.atol, tolerance.rtol)
        if engine.kind == "compile" and self._batch_size > 1:
            check = replace(check, fewest_rows=2)  # single rows would be compiled for many seconds
        if engine.kind == "llvm":
            check = replace(check, most_rows=1)  # the compiler knows no batch size, and compiles again for large ones
        check.check(engine.run)
        if not engine.has_weights(weights):
            raise ProgramImpure(CHANGED_WEIGHTS)


class ModuleVerifier:
    """Compares engines of an exported module, or of a policy called as one, with the version's probe.

    Attributes:
        inputs: the probe's inputs, read-only.
    """

    def __init__(self, manifest: Manifest, probe: bytes, signature: ModuleSignature) -> None:
        """Decode ``probe``, the file of that name. Raises ManifestError."""
        is_module = isinstance(manifest.module, ModuleSignature)
        self._probe = decode_probe(probe, signature if is_module else manifest.signature)
        self.inputs: Sequence[np.ndarray] = self._probe.inputs
        self._names = [spec.name for spec in signature.outputs]
        self._tolerance = (manifest.probe.atol, manifest.probe.rtol)

    def verify(self, run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]) -> None:
        """Raise ProbeMismatch or ProgramError unless ``run`` reproduces the probe; its engine is warm afterwards."""
        for _ in range(_MODULE_CALLS):
            try:
                found = run(self.inputs)
            except PolicyOutputError as error:
                raise ProgramError(str(error)) from error
            compare_outputs(self._names, self._probe.outputs, found, *self._tolerance)


@functools.lru_cache(maxsize=64)
def _mixed_rows(rows: int, batch_size: int) -> np.ndarray:
    """Return the rows of a batch: numbers below ``rows`` are the probe's, the others stand for rows of ``company``.

    About half of the batch is of the probe. No publisher can foresee the order.
    """
    known = max(batch_size // 2, rows if batch_size > rows else 1)
    others = rows + np.arange(batch_size - known) % COMPANY_ROWS
    return np.random.default_rng().permutation(np.concatenate((np.arange(known) % rows, others)))


def _rows(arrays: Sequence[np.ndarray], row: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(array[row]) for array in arrays)
