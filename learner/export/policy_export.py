"""Export of a policy: programs made once and compared with eager, then new weights in them, version after version."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from learner.export.export_methods import ExportSubject, MadeProgram, Make, methods_of, try_methods
from learner.export.flat_module import FlatInterface, copy_for_export
from learner.export.inputs.dynamic_sizes import EXAMPLE_ROWS, LARGER_SIZES
from learner.export.inputs.input_variations import MAGNITUDES, is_widened, widened, with_wide_rows
from learner.export.program_checks import (
    ATOL,
    RTOL,
    Arrays,
    Case,
    ProgramChecks,
    affordable_sizes,
    perturbed,
    write_weights,
)
from learner.export.spaces_policy import SpacesPolicy
from shared.engines.eager import EagerEngine, module_arrays, module_tensors
from shared.engines.engine import Engine
from shared.engines.importable import ImportablePolicy, encode_importable, load_importable
from shared.engines.purity import CHANGED_WEIGHTS, PurityCheck
from shared.engines.torch_arrays import array_of, weight_array
from shared.errors import ExportError, ProbeMismatch, ProgramImpure, WeightsError, one_line
from shared.policy.manifest import PROBE_FILE, WEIGHTS_FILE, MethodReport, ProbeEntry, ProgramEntry, ProgramKind
from shared.policy.probe import (
    PROBE_ATOL,
    PROBE_RTOL,
    MakeInputs,
    compare,
    compute_probe,
    encode_probe,
    make_inputs,
    run_policy,
    run_policy_in_place,
)
from shared.policy.program_digest import program_digest
from shared.policy.signature import PolicySignature
from shared.policy.weights import check_layout, encode_weights, have_equal_arrays, is_float

if TYPE_CHECKING:
    from shared.scripting.scripting import ScriptModule

_BATCH_SIZES = (EXAMPLE_ROWS, 1, 64)
_WIDE_ROWS = 64


class PolicyExporter:
    """The programs of a copy of one policy, made at construction, and the files of versions. Not thread-safe."""

    reports: tuple[MethodReport, ...]

    def __init__(
        self,
        module: nn.Module,
        signature: PolicySignature,
        *,
        importable: ImportablePolicy | None = None,
        onnx: bool = True,
        aot: bool = False,
        programs: Collection[ProgramKind] = (),
    ) -> None:
        """Takes seconds with ``onnx``, 30 s with ``aot``. See ``methods_of`` for these and ``programs``.

        Raises ExportError if no program equals the policy.
        """
        exported = programs if importable is None else set(programs) - {"importable"}
        methods = methods_of(exported, onnx=onnx, aot=aot)
        self.signature = signature
        self._module = copy_for_export(module)
        given = module_tensors(module)
        self._infinite = {name: array_of(given[name].cpu()).copy() for name in given.keys() - self._arrays().keys()}
        self._not_in_state_dict = self._arrays().keys() - self._module.state_dict().keys()
        checks = policy_checks(self._module, signature)
        interface = policy_interface(signature, checks.example)
        subject = ExportSubject(
            self._module, interface, checks, is_policy=True, core=self._module, script_core=_scripted
        )
        more = {} if importable is None else {"importable": _importable_method(importable)}
        made, self.reports = try_methods(subject, methods, more)
        self._programs = tuple(program.entry for program in made.values())
        torchscript = made.get("torchscript")
        self._scripted = None if torchscript is None else torchscript.scripted
        self._constant_files = {program.entry.file: program.data for program in made.values()}

    def files(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, bytes], tuple[ProgramEntry, ...], ProbeEntry]:
        """Return the files of a version with these ``weights`` (a state dict), its programs and its probe.

        Raises WeightsError for weights of another network or not finite, ExportError for outputs that are not finite.
        """
        write_weights(self._module, self._fitting(weights))
        probe = with_wide_rows(self._module, self.signature, compute_probe(self._module, self.signature))
        files = {
            WEIGHTS_FILE: encode_weights(self._arrays()),
            PROBE_FILE: encode_probe(probe, self.signature),
            **self._constant_files,
        }
        if self._scripted is not None:
            found = run_policy(self._scripted, self.signature, probe.inputs)
            try:
                compare(probe.outputs, found, self.signature, PROBE_ATOL, PROBE_RTOL)
            except ProbeMismatch as error:
                raise ExportError(f"with these weights the program does not equal the eager policy: {error}") from error
        return files, self._programs, ProbeEntry(PROBE_FILE, PROBE_ATOL, PROBE_RTOL)

    def _arrays(self) -> dict[str, np.ndarray]:
        return module_arrays(self._module)

    def _fitting(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        mine = self._arrays()
        arrays = {name: weight_array(tensor.detach().cpu()) for name, tensor in weights.items()}
        arrays |= {name: mine[name] for name in self._not_in_state_dict - arrays.keys()}
        for name, infinite in self._infinite.items():
            if not np.array_equal(arrays.pop(name, infinite), infinite):
                raise WeightsError(f"export again: {one_line(name, 80)} has infinities, so it is part of the program")
        check_layout(mine, arrays)
        for name, array in arrays.items():
            if is_float(array.dtype) and not np.isfinite(array).all():
                raise WeightsError(f"{name} holds values that are not finite: training has diverged")
        return arrays


def _scripted(policy: nn.Module) -> "ScriptModule":
    from shared.scripting.scripting import script

    return policy.scripted() if isinstance(policy, SpacesPolicy) else script(policy)


def policy_checks(module: nn.Module, signature: PolicySignature) -> ProgramChecks:
    """Return the checks of a policy's programs. Raises ExportError if the policy does not match its signature."""
    weights = {name: array.copy() for name, array in module_arrays(module).items()}
    # First of all: no probe is found for a policy that answers differently each time.
    _check_purity(module, _purity(signature, make_inputs(signature, EXAMPLE_ROWS, 0)), weights, repeats_only=True)
    other_weights = perturbed(weights)

    def cases(inputs_set: int, make: MakeInputs, seed: int = 0) -> list[Case]:
        probes = (compute_probe(module, signature, batch_size=n, seed=seed + n, make=make) for n in _BATCH_SIZES)
        return [Case(n, inputs_set, p.inputs, p.outputs) for n, p in zip(_BATCH_SIZES, probes, strict=True)]

    write_weights(module, other_weights)
    reweighted = cases(0, make_inputs)
    write_weights(module, weights)
    plausible = cases(0, make_inputs)
    steady = with_wide_rows(module, signature, compute_probe(module, signature))
    _check_purity(module, _purity(signature, steady.inputs), weights)
    try:
        others = cases(1, one_sided_inputs)
    except ExportError:  # for those inputs the outputs are not finite, or no choice is clear
        others = cases(1, make_inputs, seed=1000)
    others += _larger_cases(module, signature, plausible[-1])
    others += _wide_cases(module, signature)

    def difference(expected: Arrays, found: Arrays, scale: float) -> float:
        return compare(expected, found, signature, scale * ATOL, scale * RTOL)

    return ProgramChecks(weights, (*plausible, *others), difference, other_weights, reweighted)


def _larger_cases(module: nn.Module, signature: PolicySignature, known: Case) -> list[Case]:
    """Return cases of more rows, those of ``known`` repeated, whose outputs do not depend on the batch size."""
    numbers = sum(array[0].size for array in known.inputs)
    n_weights = sum(tensor.numel() for tensor in module_tensors(module).values())
    found = []
    for rows in affordable_sizes(LARGER_SIZES, numbers, n_weights):
        row = np.arange(rows) % len(known.inputs[0])
        inputs, expected = (tuple(array[row] for array in arrays) for arrays in (known.inputs, known.outputs))
        outputs = run_policy(module, signature, inputs)
        try:
            compare(expected, outputs, signature, PROBE_ATOL, PROBE_RTOL)
        except ProbeMismatch as error:
            raise ExportError(
                f"compute each row from that row alone: in a batch of {rows} rows its outputs are others: {error}"
            ) from error
        found.append(Case(rows, 0, inputs, tuple(outputs)))
    return found


def _wide_cases(module: nn.Module, signature: PolicySignature) -> list[Case]:
    """Return cases of inputs far from the plausible, without those for which the policy itself is not finite."""
    found: list[Case] = []
    if not any(map(is_widened, signature.inputs)):
        return found
    for number, magnitude in enumerate(MAGNITUDES, start=2):
        make = partial(_wide_inputs, magnitude)
        try:
            probe = compute_probe(module, signature, batch_size=_WIDE_ROWS, seed=number, make=make)
        except ExportError:  # the policy accepts no such inputs, overflows, or has no clear choice
            continue
        found.append(Case(_WIDE_ROWS, 1, probe.inputs, probe.outputs, magnitude, magnitude))
    steady = with_wide_rows(module, signature, compute_probe(module, signature, batch_size=_WIDE_ROWS, seed=1))
    # Published probes have such rows: a program that differs here by more could not act.
    found.append(Case(_WIDE_ROWS, 1, steady.inputs, steady.outputs, MAGNITUDES[-1], PROBE_ATOL / ATOL / 2))
    return found


def _wide_inputs(magnitude: float, signature: PolicySignature, batch_size: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, batch_size])
    return [
        widened(array, magnitude, generator) if is_widened(spec) and array.dtype.kind == "f" else array
        for array, spec in zip(make_inputs(signature, batch_size, seed), signature.inputs, strict=True)
    ]


def _purity(signature: PolicySignature, inputs: Arrays) -> PurityCheck:
    """Return the check that actors make of the programs, here of the policy itself, with the same tolerances."""
    return PurityCheck(signature, inputs, EXAMPLE_ROWS, PROBE_ATOL, PROBE_RTOL)


def _check_purity(
    module: nn.Module, purity: PurityCheck, weights: Mapping[str, np.ndarray], *, repeats_only: bool = False
) -> None:
    """Raise ExportError unless the eager policy is pure: its author hears it first, before any actor does."""

    def run(inputs: Arrays) -> list[np.ndarray]:
        return run_policy_in_place(module, purity.signature, inputs)

    try:
        (purity.check_repeats if repeats_only else purity.check)(run)
    except ProgramImpure as error:
        raise ExportError(str(error)) from error
    if not have_equal_arrays(weights, module_arrays(module)):
        raise ExportError(CHANGED_WEIGHTS)


def policy_interface(signature: PolicySignature, example: Sequence[Tensor]) -> FlatInterface:
    """Return the flat interface of a policy. State that comes out is named ``next_state.…``: a graph's names differ."""
    outputs = [f"next_{spec.name}" if spec.role == "state" else spec.name for spec in signature.outputs]
    return FlatInterface(example, [0] * len(example), signature.input_names, outputs)


def one_sided_inputs(signature: PolicySignature, batch_size: int, seed: int) -> list[np.ndarray]:
    """Make inputs with floats of one sign, which depends on the batch size, so that branches go both ways."""
    inputs = make_inputs(signature, batch_size, seed)
    sign = -1 if batch_size == EXAMPLE_ROWS else 1
    return [
        np.asarray(sign * (np.abs(array) + 0.5), array.dtype)
        if array.dtype.kind == "f" and spec.role in ("observation", "state")
        else array
        for array, spec in zip(inputs, signature.inputs, strict=True)
    ]


def _importable_method(importable: ImportablePolicy) -> Make:
    data = encode_importable(importable)

    def make(subject: ExportSubject) -> tuple[Engine, MadeProgram]:
        # The learner trusts its own class.
        module = load_importable(data, subject.checks.weights, [importable.class_path.partition(":")[0]])
        return EagerEngine(module, program_digest("importable", data)), MadeProgram("importable", data)

    return make
