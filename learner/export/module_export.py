"""Export of any module, by one call: its verified programs become a directory that actors and ``load_policy`` read."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.export.export_methods import (
    EXPORT_METHODS,
    ExportMethod,
    ExportSubject,
    MadeProgram,
    describe_report,
    methods_of,
    try_methods,
)
from learner.export.flat_module import FlatInterface, FlatModule, copy_for_export, flat_source
from learner.export.given_module import has_fixed_sizes, module_of, positional
from learner.export.inputs.dynamic_sizes import Dynamic, named_dims
from learner.export.inputs.eager_module import EagerModule, tensors_of
from learner.export.inputs.forward_parameters import forward_parameters, tensor_names
from learner.export.module_cases import ModuleCases
from learner.export.program_checks import ATOL, Arrays, Case, ProgramChecks, perturbed, write_weights
from shared.engines.eager import module_tensors
from shared.engines.torch_arrays import weight_array
from shared.errors import ConfigurationError, ExportError, SignatureMismatch, WeightsError, one_line
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import PROBE_FILE, WEIGHTS_FILE, Manifest, MethodReport, ProbeEntry, ProgramKind
from shared.policy.manifest_checks import MAX_TOLERANCE
from shared.policy.nested_values import describe, leaf_names
from shared.policy.probe import PROBE_ATOL, PROBE_RTOL, Probe, compare_outputs, encode_probe
from shared.policy.signature import NOT_A_POLICY
from shared.policy.signing import SigningKey, signing_key_of
from shared.policy.weights import encode_weights, is_float
from shared.store.pending_version import PendingVersion
from shared.store.version_files import Sign, describe_files, describe_version, parse_version_name

if TYPE_CHECKING:
    from shared.scripting.scripting import ScriptModule


class ExportOptions(TypedDict, total=False):
    """Keywords of ``export_module`` that say which programs are made, and for which calls.

    ``how`` names one method, to be used instead of all others. ``programs`` names the programs to make: ``torchscript``
    and ``onnx`` (both, unless one of them is named), ``executorch`` (extra ``executorch``), ``aot`` (15 to 40 s).
    ``onnx=False`` and ``aot=True`` are short forms of ``("torchscript",)`` and ``("aot",)``. ``allowed_operators``
    names operators beyond the pure ones; those who load the module have to allow them, too. ``dynamic`` names sizes
    that vary besides the batch size, by parameter and dimension: ``{"entities": {1: "n"}}``, or
    ``torch.export.Dim("n", min=1, max=64)`` in place of the string; equal names are equal sizes, and a string's range
    is as large as the module and a call's time permit. ``tolerance``, absolute and relative, is that of programs at
    export and of engines at each load, at most ``1e-3``.
    """

    how: ExportMethod | None
    programs: Collection[ProgramKind]
    onnx: bool
    aot: bool
    allowed_operators: tuple[str, ...]
    dynamic: Dynamic | None
    tolerance: float | None


@dataclass(frozen=True)
class _Choices:
    """The options of one export, checked."""

    methods: Sequence[ExportMethod]
    trust: ProgramTrust
    dynamic: Dynamic | None
    tolerance: float | None


@dataclass(frozen=True)
class ExportReport:
    """The result of an export: its directory, and what each method that was tried gave."""

    directory: Path
    manifest: Manifest

    @property
    def methods(self) -> tuple[MethodReport, ...]:
        return self.manifest.export

    @property
    def taken(self) -> tuple[str, ...]:
        """The methods whose programs are in the directory."""
        return tuple(report.method for report in self.methods if report.taken)

    def __str__(self) -> str:
        return "\n".join([f"{self.directory}: {', '.join(self.taken)}", *map(describe_report, self.methods)])


def export_module(
    module: nn.Module | torch.export.ExportedProgram,
    example_args: Sequence[Any],
    directory: str | Path,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
    batch_dims: Sequence[int | None] | None = None,
    signing_key: SigningKey | str | Path | None = None,
    **options: Unpack[ExportOptions],
) -> ExportReport:
    """Export ``module``, as it answers ``module(*example_args, **example_kwargs)`` in eval mode, into a new directory.

    Arguments and results may be nested in any way (``shared.policy.nested_values``); arguments that are no tensors
    become part of the program. ``actor.acting.module_call.load_policy(directory)`` returns a callable with the same
    arguments.

    The methods are script, script with pieces traced, trace with pieces scripted, and trace. The first is taken that
    equals eager (within ``1e-5 + 1e-5 * |x|``) at three batch sizes, for at least two sets of inputs made from the
    example, and with other weights; then for larger batches and inputs far from the example, as far as the module
    accepts them. ONNX and AOTInductor programs are checked in the same way.

    Args:
        module: The module, which may be or hold scripted and traced modules, or a program of ``torch.export``. It is
            copied; only a module with lazy layers is called itself, once, to initialise them.
        example_args: The positional arguments of one call.
        example_kwargs: The keyword arguments of that call.
        dynamic_batch: False to export for the sizes of the example only.
        batch_dims: The batch dimension of each tensor of the arguments, in order, None for one without. By default,
            the dimensions are found by trying.
        signing_key: The key, or the path of its file, that signs the manifest.
        **options: See ``ExportOptions``.

    Raises:
        ExportError: No method works (the message has each reason), or the module itself fails.
        ConfigurationError: ``directory`` has content, or an option is unknown.
    """
    choices = _choices(**options)
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigurationError(f"name a new directory: {path} has content, and a published version is never changed")
    key = signing_key_of(signing_key)
    dynamic_batch = dynamic_batch and not has_fixed_sizes(module)
    eager, tensors = _eager_module(module_of(module), example_args, example_kwargs)
    named = named_dims(choices.dynamic, tensor_names(leaf_names(eager.arguments), eager.parameters), tensors)
    cases = ModuleCases(eager, tensors, dynamic_batch=dynamic_batch, batch_dims=batch_dims, named=named)
    subject = _subject(cases, choices)
    made, reports = try_methods(subject, choices.methods)
    files = {WEIGHTS_FILE: encode_weights(subject.checks.weights)}
    files |= {program.entry.file: program.data for program in made.values()}
    probe = _probe_entry(reports, choices.tolerance)
    sign = None if key is None else key.sign
    manifest = _write(path, files, [*made.values()], reports, cases, probe=probe, sign=sign)
    return ExportReport(path, manifest)


def _choices(
    how: ExportMethod | None = None,
    programs: Collection[ProgramKind] = (),
    onnx: bool = True,
    aot: bool = False,
    allowed_operators: tuple[str, ...] = (),
    dynamic: Dynamic | None = None,
    tolerance: float | None = None,
) -> _Choices:
    """Return the checked options. Raises TypeError for an unknown one, ConfigurationError for a wrong value."""
    if how is not None and how not in EXPORT_METHODS:
        raise ConfigurationError(f"expected one of {', '.join(EXPORT_METHODS)} for how, found {how!r}")
    methods = methods_of(programs, onnx=onnx, aot=aot) if how is None else (how,)
    is_number = isinstance(tolerance, int | float)
    if tolerance is not None and not (is_number and 0 <= tolerance <= MAX_TOLERANCE):
        raise ConfigurationError(
            f"pass a tolerance from 0 to {MAX_TOLERANCE:g}, the most that an actor allows: found {tolerance!r}"
        )
    return _Choices(methods, ProgramTrust(allowed_operators=allowed_operators), dynamic, tolerance)


def _eager_module(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[EagerModule, list[Tensor]]:
    """Return a copy of the module with the structure of its arguments, and their tensors."""
    try:
        arguments, leaves, classes = describe({"args": positional(args), "kwargs": dict(kwargs or {})}, "the arguments")
    except SignatureMismatch as error:
        raise ExportError(str(error)) from error
    tensors = tensors_of(leaves)
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        # A module can neither be copied nor exported before the call that initialises its lazy layers.
        was_training = module.training
        try:
            EagerModule(module.eval(), arguments, classes).checked(tensors)
        finally:
            module.train(was_training)
    copied = copy_for_export(module)
    return EagerModule(copied, arguments, classes, forward_parameters(copied)), tensors


def _subject(cases: ModuleCases, choices: _Choices) -> ExportSubject:
    eager = cases.eager
    flat = FlatModule(eager.module, eager.arguments, cases.result, eager.classes, clone=eager.writes_inputs).eval()

    def script_core(module: nn.Module) -> "ScriptModule":
        from shared.scripting.scripting import script, script_around

        source, records = flat_source(eager.arguments, cases.result, clone=eager.writes_inputs)
        classes = {name: eager.classes[class_path] for name, class_path in records.items()}
        return script_around({"module": script(module)}, source, classes)

    checks = _checks(cases, flat, ATOL if choices.tolerance is None else choices.tolerance)
    names = cases.signature.input_names, cases.signature.output_names
    interface = FlatInterface(checks.example, cases.batch_dims, *names, cases.named, cases.sizes)
    return ExportSubject(flat, interface, checks, False, eager.module, script_core, choices.trust)


def _checks(cases: ModuleCases, flat: nn.Module, tolerance: float) -> ProgramChecks:
    def difference(expected: Arrays, found: Arrays, scale: float) -> float:
        return compare_outputs(cases.signature.output_names, expected, found, tolerance, tolerance, scale=scale)

    weights = _weights(flat)
    other_weights = perturbed(weights)
    reweighted: list[Case] = []
    if any(is_float(array.dtype) for array in weights.values()):
        first = cases.cases[0]
        try:
            write_weights(flat, other_weights)
            reweighted = [replace(first, outputs=cases.answer(first.inputs))]
        except ExportError:
            pass  # the module does not accept these weights
        finally:
            write_weights(flat, weights)
    return ProgramChecks(weights, cases.cases, difference, other_weights, reweighted)


def _weights(flat: nn.Module) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in module_tensors(flat).items():
        try:
            arrays[name] = weight_array(tensor).copy()
        except (TypeError, RuntimeError) as error:  # sparse, quantized
            raise ExportError(f"{name} cannot be kept in a weights file: {error}") from error
        if is_float(arrays[name].dtype) and not np.isfinite(arrays[name]).all():
            raise ExportError(
                "load finite weights, or keep a mask of bool in place of a buffer with NaN: "
                f"{one_line(name, 80)} holds infinite or NaN values, and actors refuse weights that are not finite"
            )
    return arrays


def _probe_entry(reports: Sequence[MethodReport], tolerance: float | None) -> ProbeEntry:
    """Return the tolerances of engines: ``tolerance``, or else wider ones than at export, for other machines."""
    if tolerance is not None:
        return ProbeEntry(PROBE_FILE, tolerance, tolerance)
    largest = max((report.largest_difference or 0.0 for report in reports), default=0.0)
    found = min(max(PROBE_ATOL, 10 * largest), MAX_TOLERANCE)
    return ProbeEntry(PROBE_FILE, found, max(PROBE_RTOL, found))


def _write(
    path: Path,
    files: dict[str, bytes],
    made: Sequence[MadeProgram],
    reports: tuple[MethodReport, ...],
    cases: ModuleCases,
    *,
    probe: ProbeEntry,
    sign: Sign | None,
) -> Manifest:
    try:
        golden = Probe(cases.cases[0].inputs, cases.cases[0].outputs)
        files = {**files, PROBE_FILE: encode_probe(golden, cases.signature)}
    except WeightsError as error:
        raise ExportError(f"the probe: {error}") from error
    version = parse_version_name(path.name) or 0
    manifest, stated = describe_version(
        version,
        describe_files(files),
        lambda number, entries: Manifest(
            version=number,
            run_id="",
            env_id=None,
            created_unix_s=time.time(),
            signature=NOT_A_POLICY,
            programs=tuple(program.entry for program in made),
            files=entries,
            weights=WEIGHTS_FILE,
            probe=probe,
            export=reports,
            module=cases.signature,
        ),
        sign,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with PendingVersion(path.parent, fsync=True) as pending:
        pending.write({**files, **stated})
        if not pending.commit(path.name):
            raise ConfigurationError(f"name a new directory: another process has made {path} meanwhile")
    return manifest
