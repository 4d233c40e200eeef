"""One call for any module: the first method of the methods that equals eager becomes a directory for actors."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.export.eager_cases import EagerCases, EagerModule, tensors_of
from learner.export.export_checks import write_weights
from learner.export.export_copy import copy_for_export
from learner.export.export_hints import hint
from learner.export.export_methods import EXPORT_METHODS, TORCHSCRIPT_METHODS, ExportMethod, MadeProgram, MethodRunner
from learner.export.flat_module import FlatModule
from learner.export.program_checks import ProgramChecks
from shared.engines.eager import module_tensors
from shared.errors import ConfigurationError, ExportError, SignatureMismatch, WeightsError, one_line
from shared.policy.manifest import (
    PROBE_FILE,
    PROGRAM_FILES,
    WEIGHTS_FILE,
    Manifest,
    MethodReport,
    ProbeEntry,
    ProgramEntry,
)
from shared.policy.module_signature import NOT_A_POLICY
from shared.policy.probe import PROBE_ATOL, PROBE_RTOL, Probe, encode_probe
from shared.policy.signing import SigningKey, signing_key_of
from shared.policy.structure import describe
from shared.policy.weights import encode_weights, tensor_places
from shared.store.pending_version import PendingVersion
from shared.store.version_files import Sign, describe_files, describe_version, parse_version_name


@dataclass(frozen=True)
class ExportReport:
    """What became of an export: every method that was tried, in order, and what it said."""

    directory: Path
    manifest: Manifest

    @property
    def methods(self) -> tuple[MethodReport, ...]:
        """As the manifest records them, with the largest difference from eager at each batch size."""
        return self.manifest.export

    @property
    def taken(self) -> tuple[str, ...]:
        """The methods whose programs are in the directory."""
        return tuple(report.method for report in self.methods if report.taken)

    def __str__(self) -> str:
        return "\n".join([f"{self.directory}: {', '.join(self.taken)}", *map(describe_report, self.methods)])


class ExportOptions(TypedDict, total=False):
    """Keywords of ``export_module`` that say which programs are made.

    ``how`` names one method, to be used instead of all others. ``onnx`` (on by default) adds an ONNX graph, ``aot`` an
    AOTInductor package (15 to 40 s). ``signing_key``, or the path of its file, signs the manifest.
    """

    how: ExportMethod | None
    onnx: bool
    aot: bool
    signing_key: SigningKey | str | Path | None


def describe_report(report: MethodReport) -> str:
    """One line: taken with which differences, or refused for which reason."""
    if not report.taken:
        return f"  {report.method}: refused: {one_line(report.error or '')}"
    sizes = report.by_batch_size if isinstance(report.by_batch_size, dict) else {}
    at = ", ".join(f"{difference:.1e} at {size}" for size, difference in sorted(sizes.items(), key=_rows))
    alone = "; compared for the example's values alone: the module takes no others" if report.input_sets == 1 else ""
    return f"  {report.method}: taken: differs from eager by {at or f'{report.largest_difference:.1e}'}{alone}"


def _rows(item: tuple[str, float]) -> int:
    return int(item[0])


def export_module(
    module: nn.Module,
    example_args: Sequence[Any],
    directory: str | Path,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
    batch_dims: Sequence[int | None] | None = None,
    **options: Unpack[ExportOptions],
) -> ExportReport:
    """Export ``module`` as it answers ``module(*example_args, **example_kwargs)`` in eval mode, into a new directory.

    Arguments and results may be nested in any way (``shared.policy.structure``); what is no tensor among the
    arguments becomes
    part of the program. ``actor.acting.module_call.load_policy(directory)`` gives a callable with the same ones.

    The methods: script; script with pieces traced; trace with pieces scripted; trace; the first that equals eager
    (within ``1e-5 + 1e-5 * |x|``) at three batch sizes, for at least two sets of inputs made from the example, and with
    other weights, is taken. Besides it there is a graph of ONNX where ``onnx`` is on, and an AOTInductor package (15 to
    40 s) where ``aot`` is. ``how`` names one method instead: it gives that one or fails.

    The batch dimension of each tensor is found by trying; ``batch_dims`` names it for each tensor of the arguments, in
    order, None for one without. ``dynamic_batch=False`` exports for the example's own sizes only.

    ``module`` is copied; only one with lazy layers is called itself, once, which initialises them. ``signing_key`` (or
    the file that it is in) signs the manifest.

    Raises ExportError (no method, each with its reason; or the module itself is at fault), and ConfigurationError where
    ``directory`` is taken.
    """
    chosen = _Chosen(**options)
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigurationError(
            f"{path} is there already, and what is published is never changed: name a new directory"
        )
    key = signing_key_of(chosen.signing_key)
    cases = _eager_cases(module, example_args, example_kwargs, dynamic_batch, batch_dims)
    files, programs, reports = _try_methods(cases, chosen.methods)
    manifest = _write(path, files, programs, reports, cases, sign=None if key is None else key.sign)
    return ExportReport(path, manifest)


@dataclass(frozen=True)
class _Chosen:
    """The keywords of ``ExportOptions``, with their defaults. Raises ConfigurationError for an unknown method."""

    how: ExportMethod | None = None
    onnx: bool = True
    aot: bool = False
    signing_key: SigningKey | str | Path | None = None

    def __post_init__(self) -> None:
        if self.how is not None and self.how not in EXPORT_METHODS:
            raise ConfigurationError(f"expected one of {', '.join(EXPORT_METHODS)} for how, found {self.how!r}")

    @property
    def methods(self) -> tuple[ExportMethod, ...]:
        """The methods to try, in order."""
        if self.how is not None:
            return (self.how,)
        return (*TORCHSCRIPT_METHODS, *(("onnx",) if self.onnx else ()), *(("aot",) if self.aot else ()))


def _eager_cases(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_batch: bool,
    batch_dims: Sequence[int | None] | None,
) -> EagerCases:
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"expected a torch.nn.Module, an instance and not its class; found {module!r}")
    try:
        arguments, leaves, classes = describe({"args": tuple(args), "kwargs": dict(kwargs or {})}, "the arguments")
    except SignatureMismatch as error:
        raise ExportError(str(error)) from error
    tensors = tensors_of(leaves)
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        _initialise(EagerModule(module, arguments, classes), tensors)
    eager = EagerModule(copy_for_export(module), arguments, classes)
    return EagerCases(eager, tensors, dynamic_batch=dynamic_batch, batch_dims=batch_dims)


def _initialise(lazy: EagerModule, tensors: Sequence[Tensor]) -> None:
    """A lazy module can neither be copied nor exported before its first call, which this is."""
    was_training = lazy.module.training
    lazy.module.eval()
    try:
        lazy(tensors)
    except Exception as error:  # a module's own code may raise anything
        raise ExportError(f"the module itself raises {type(error).__name__}: {error}") from error
    finally:
        lazy.module.train(was_training)


def _try_methods(
    cases: EagerCases, methods: Sequence[ExportMethod]
) -> tuple[dict[str, bytes], tuple[ProgramEntry, ...], tuple[MethodReport, ...]]:
    """The files of a version, its programs and what each method said."""
    eager = cases.eager
    flat = FlatModule(eager.module, eager.arguments, cases.result, eager.classes, clone=eager.writes_inputs).eval()
    weights = _weights(flat)
    checks = ProgramChecks(cases, weights, lambda arrays: write_weights(flat, arrays))
    encoded = encode_weights(weights)
    maker = MethodRunner(flat, cases, checks, weights)
    places = tensor_places(encoded)
    made: dict[str, MadeProgram] = {}
    reports = []
    for method in methods:
        if method in TORCHSCRIPT_METHODS and "torchscript" in made:
            continue
        program, report = maker.attempt(method, places)
        reports.append(report)
        if program is not None:
            made[program.kind] = program
    if not made:
        raise _no_method(reports, aot_was_tried="aot" in methods)
    files = {PROGRAM_FILES[program.kind]: program.data for program in made.values()}
    entries = tuple(
        ProgramEntry(program.kind, PROGRAM_FILES[program.kind], program.program_digest) for program in made.values()
    )
    return {WEIGHTS_FILE: encoded, **files}, entries, tuple(reports)


def _no_method(reports: Sequence[MethodReport], *, aot_was_tried: bool) -> ExportError:
    said = "; ".join(f"{report.method}: {one_line(report.error or '')}" for report in reports)
    if len(reports) > 1:
        said = f"no method gives a program that equals the module: {said}"
        said += "" if aot_was_tried else "; aot was not tried"
    advice = hint(reports)
    error = ExportError(said if advice is None else f"{said}. What to change: {advice}")
    for report in reports:
        error.add_note(describe_report(report))
    return error


def _weights(flat: nn.Module) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in module_tensors(flat).items():
        try:
            arrays[name] = tensor.numpy().copy()
        except (TypeError, RuntimeError) as error:  # bfloat16, sparse, quantized
            raise ExportError(f"{name} cannot be kept in a weights file: {error}") from error
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise ExportError(
                f"{name} holds values that are not finite, and weights with such are taken for broken ones: "
                "make them in forward, or keep a mask of bool in their place"
            )
        if arrays[name].dtype.kind == "c":
            raise ExportError(f"{name} is {tensor.dtype}, which has no place in a weights file: keep its real view")
    return arrays


def _write(
    path: Path,
    files: dict[str, bytes],
    programs: tuple[ProgramEntry, ...],
    reports: tuple[MethodReport, ...],
    cases: EagerCases,
    *,
    sign: Sign | None,
) -> Manifest:
    try:
        probe = Probe(cases.cases[0].inputs, cases.cases[0].outputs)
        files = {**files, PROBE_FILE: encode_probe(probe, cases.signature)}
    except WeightsError as error:
        raise ExportError(f"the probe: {error}") from error
    version = parse_version_name(path.name) or 0
    tolerance = max(PROBE_ATOL, 10 * max((report.largest_difference or 0.0 for report in reports), default=0.0))
    manifest, stated = describe_version(
        version,
        describe_files(files),
        lambda number, entries: Manifest(
            version=number,
            run_id="",
            env_id=None,
            created_unix_s=time.time(),
            signature=NOT_A_POLICY,
            programs=programs,
            files=entries,
            weights=WEIGHTS_FILE,
            probe=ProbeEntry(PROBE_FILE, tolerance, max(PROBE_RTOL, tolerance)),
            export=reports,
            module=cases.signature,
        ),
        sign,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with PendingVersion(path.parent, fsync=True) as pending:
        pending.write({**files, **stated})
        if not pending.commit(path.name):
            raise ConfigurationError(f"{path} is there already: somebody else made it meanwhile")
    return manifest
