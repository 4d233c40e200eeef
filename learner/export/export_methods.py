"""The export methods: each makes one kind of program of a module, and reports why it cannot where it fails."""

import importlib.util
import re
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import torch
from loguru import logger
from msgspec import UNSET
from torch import Tensor, nn

from learner.export.flat_module import FlatInterface, copy_for_export, quietly
from learner.export.inputs.dynamic_sizes import BATCH, EXAMPLE_ROWS, resized
from learner.export.program_checks import (
    BakedBatchError,
    ProgramChecks,
    check_operators,
    perturbed,
    write_weights,
)
from learner.export.program_choice import programs_of
from shared.engines.aot import BUILD_KEY, LAYOUT_KEY, build_name
from shared.engines.eager import module_tensors
from shared.engines.engine import Engine
from shared.errors import ConfigurationError, ExportError, PolicyError, one_line
from shared.operators.program_trust import PURE_ONLY, ProgramTrust
from shared.policy.manifest import PROGRAM_FILES, MethodReport, ProgramEntry, ProgramKind
from shared.policy.program_digest import program_digest
from shared.policy.weights import encode_weights, tensor_places
from shared.scripting.script_modules import without_torch_warnings

if TYPE_CHECKING:
    from learner.export.torchscript.script_methods import ScriptMethod
    from shared.scripting.scripting import ScriptModule

ExportMethod = Literal["script", "script+trace", "trace+script", "trace", "onnx", "executorch", "aot"]
EXPORT_METHODS: tuple[ExportMethod, ...] = get_args(ExportMethod)
_METHODS_OF: Mapping[ProgramKind, tuple[ExportMethod, ...]] = {
    "torchscript": ("script", "script+trace", "trace+script", "trace"),
    "onnx": ("onnx",),
    "executorch": ("executorch",),
    "aot": ("aot",),
}
_MOST_ROWS, _SPLIT_ROWS = 1024, 256  # of one call of an ExecuTorch program, which reserves memory for all
_MOST_CHARACTERS = 2000


@dataclass(frozen=True)
class MadeProgram:
    """One program that equals eager. ``scripted`` shares its tensors with the module; only TorchScript has it."""

    kind: ProgramKind
    data: bytes
    scripted: "ScriptModule | None" = None

    @cached_property
    def entry(self) -> ProgramEntry:
        return ProgramEntry(self.kind, PROGRAM_FILES[self.kind], program_digest(self.kind, self.data))


@dataclass(frozen=True)
class ExportSubject:
    """A module in eval mode as the methods see it. It is read, never changed.

    ``flat`` takes and returns one list of tensors. ``core`` is the module that TorchScript compiles: ``flat`` itself
    for a policy, else the module within, around which ``script_core`` writes the flat interface. The ONNX graph of a
    policy holds no floats but its weights, and its engine binds the outputs. ``trust`` is the permission of those who
    load the programs.
    """

    flat: nn.Module
    interface: FlatInterface
    checks: ProgramChecks
    is_policy: bool
    core: nn.Module
    script_core: "Callable[[nn.Module], ScriptModule] | None" = None
    trust: ProgramTrust = PURE_ONLY

    @property
    def example(self) -> list[Tensor]:
        return self.checks.example


Make = Callable[[ExportSubject], tuple[Engine, MadeProgram]]


def try_methods(
    subject: ExportSubject, names: Sequence[ExportMethod], more: Mapping[str, Make] | None = None
) -> tuple[dict[ProgramKind, MadeProgram], tuple[MethodReport, ...]]:
    """Return the programs of all methods that work, of TorchScript's the first, and all reports. Raises ExportError."""
    made: dict[ProgramKind, MadeProgram] = {}
    reports: list[MethodReport] = []
    methods: dict[str, Make] = {name: _METHODS[name] for name in names}
    for method, make in (methods | dict(more or {})).items():
        if method in _METHODS_OF["torchscript"] and "torchscript" in made:
            continue
        try:
            with without_torch_warnings():
                engine, program = make(subject)
                check_operators(program.kind, program.data, subject.trust)
                found = subject.checks.differences(engine.run, engine.load_weights)
        except BakedBatchError as error:
            reports.append(_refused(method, _explain(subject, error)))
        except Exception as error:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
            reports.append(_refused(method, error))
        else:
            made[program.kind] = program
            reports.append(_taken(method, found, subject.checks.input_sets))
    if not made:
        raise no_program(reports)
    return made, tuple(reports)


def methods_of(
    programs: Collection[ProgramKind] = (), *, onnx: bool = True, aot: bool = False
) -> tuple[ExportMethod, ...]:
    """Return the methods that make the programs that ``programs_of`` returns. Raises ConfigurationError."""
    if "importable" in programs:
        raise ConfigurationError("leave importable out of programs: only trainings publish the path of a class")
    return tuple(method for program in programs_of(programs, onnx=onnx, aot=aot) for method in _METHODS_OF[program])


def _torchscript(method: "ScriptMethod") -> Make:
    def made(subject: ExportSubject) -> tuple[Engine, MadeProgram]:
        # Imported here, as TorchScript is deprecated upstream: exports of other programs need none of it.
        from learner.export.torchscript.script_methods import make_archive
        from shared.engines.torchscript import TorchScriptEngine

        module, data = make_archive(method, subject)
        # The checked program is the one that an actor loads: some modules do not survive being saved.
        return TorchScriptEngine.from_bytes(data, subject.checks.weights), MadeProgram("torchscript", data, module)

    return made


def _onnx(subject: ExportSubject) -> tuple[Engine, MadeProgram]:
    from learner.export.onnx_export import export_onnx
    from shared.engines.onnx import OnnxEngine

    weights = subject.checks.weights
    places = tensor_places(encode_weights(weights))
    # A copy: exporting may leave marks on a module.
    flat = copy_for_export(subject.flat)
    graph = export_onnx(flat, subject.interface, places, keep_constants=not subject.is_policy)
    return OnnxEngine(graph, weights, bind=subject.is_policy), MadeProgram("onnx", graph)


def _executorch(subject: ExportSubject) -> tuple[Engine, MadeProgram]:
    """Make a program with the kernels of XNNPACK, or without them where they change the weights or the results."""
    if importlib.util.find_spec("executorch") is None:
        raise ExportError('install it to export ExecuTorch programs: pip install "rl-hotswap[executorch]"')
    from learner.export.executorch_export import export_executorch
    from shared.engines.executorch import ExecutorchEngine

    checks = subject.checks
    rows = max(case.batch_size or 2 for case in checks.cases)
    rows = min(rows, _SPLIT_ROWS if subject.is_policy else _MOST_ROWS)

    def made(*, xnnpack: bool) -> tuple[Engine, MadeProgram]:
        flat = copy_for_export(subject.flat)
        program = export_executorch(
            flat, subject.interface, checks.weights, rows=rows, splits=subject.is_policy, xnnpack=xnnpack
        )
        return ExecutorchEngine(program, checks.weights), MadeProgram("executorch", program)

    try:
        engine, program = made(xnnpack=True)
        checks.differences(engine.run, engine.load_weights)
    except PolicyError as error:
        logger.debug("ExecuTorch program made without XNNPACK error={}: {}", type(error).__name__, error)
        return made(xnnpack=False)
    return engine, program


def _aot(subject: ExportSubject) -> tuple[Engine, MadeProgram]:
    from shared.engines.aot import AotEngine

    flat = copy_for_export(subject.flat)
    # The compiler may take a weight of 0 or 1 for a constant.
    write_weights(flat, perturbed(subject.checks.weights, seed=1))
    package = export_aot(flat, subject.interface)
    engine = AotEngine(package, subject.checks.weights, trust_native=True)  # compiled here, just now
    return engine, MadeProgram("aot", package)


_METHODS: Mapping[ExportMethod, Make] = {
    "script": _torchscript("script"),
    "script+trace": _torchscript("script+trace"),
    "trace+script": _torchscript("trace+script"),
    "trace": _torchscript("trace"),
    "onnx": _onnx,
    "executorch": _executorch,
    "aot": _aot,
}


def _explain(subject: ExportSubject, error: BakedBatchError) -> Exception:
    """Tell an unrolled loop from a baked-in size: traced at another size, the program of a loop is longer."""
    more = resized(subject.checks.example, subject.interface.batch_dims, EXAMPLE_ROWS + 2)
    try:
        from learner.export.torchscript.script_methods import traced_lengths

        with without_torch_warnings():
            lengths = traced_lengths(subject.flat, [subject.example, more])
    except Exception:  # noqa: BLE001 - the first reason stands
        return error
    if lengths[0] == lengths[1]:
        return error
    return ExportError(
        f"a loop over the batch was baked in: traced at {EXAMPLE_ROWS} rows it has {lengths[0]} operations, "
        f"at {EXAMPLE_ROWS + 2} it has {lengths[1]}; script keeps loops, and tensor operations need none"
    )


def _taken(method: str, differences: Mapping[str, float], input_sets: int) -> MethodReport:
    by_batch_size = {size: found for size, found in differences.items() if size.isdigit()}
    by_size = {size: found for size, found in differences.items() if size and not size.isdigit()}
    return MethodReport(
        method,
        True,
        largest_difference=max(differences.values(), default=0.0),
        by_batch_size=dict(sorted(by_batch_size.items(), key=lambda item: int(item[0]))),
        by_named_size=by_size or UNSET,
        input_sets=input_sets,
    )


def _refused(method: str, error: Exception) -> MethodReport:
    message = str(error).strip() or type(error).__name__
    if not isinstance(error, PolicyError | OSError | RuntimeError):  # those say what they are about
        message = f"{type(error).__name__}: {message}"
    return MethodReport(method, False, error=message[:_MOST_CHARACTERS])


_NO_SOURCE = (
    "ship the .py file of every class and function in the module, as it was imported, for script; or use torch.where "
    "for a branch and tensor operations for a loop, so that trace works"
)
_HINTS = {
    r"object has no attribute or method 'numpy'": (
        "stay with torch's operations inside forward: a program cannot call numpy"
    ),
    r"could not get source code|Can't get source for|source code not available|lineno is out of bounds": _NO_SOURCE,
    r"code object was expected, got|is a built-in class": _NO_SOURCE,
    r"Failed to get source for": (
        "annotate forward with tensors, tuples, lists and dicts of them, or not at all: "
        "script reads no dataclass whose methods were generated"
    ),
    r"Lambda aren't supported|Expected a single top-level function": (
        "replace the lambda by a function or a method with annotated arguments"
    ),
    r"can't take variable number of arguments": (
        "name the arguments of forward one by one: script reads no *args, **kwargs or keyword-only defaults"
    ),
    r"Tensor \(inferred\) cannot be used as a tuple|Expected a value of type 'Tensor \(inferred\)'": (
        "annotate the arguments of forward and of every method that it calls (x: tuple[Tensor, Tensor], "
        "x: list[Tensor], n: int): without an annotation, script assumes a Tensor"
    ),
    r"has no attribute|object has no attribute or method": (
        "keep the attributes that forward uses as tensors, numbers, strings, submodules, or lists, tuples and dicts of "
        "them, and call only methods that torch.Tensor has in TorchScript"
    ),
}
_ANYTHING = (
    "write forward so that script can read it (annotated arguments, none of the constructs that its message names), "
    "or use torch.where for a branch and tensor operations for a loop, so that trace works"
)


def describe_report(report: MethodReport) -> str:
    """Return one line: taken with its differences from eager, or refused with the reason."""
    if not report.taken:
        return f"  {report.method}: refused: {one_line(report.error or '')}"
    sizes = report.by_batch_size if isinstance(report.by_batch_size, dict) else {}
    named = report.by_named_size if isinstance(report.by_named_size, dict) else {}
    at = ", ".join(
        [f"{sizes[size]:.1e} at {size}" for size in sorted(sizes, key=int)]
        + [f"{found:.1e} at {size}" for size, found in named.items()]
    )
    alone = "; compared for the example's values alone: the module takes no others" if report.input_sets == 1 else ""
    return f"  {report.method}: taken: differs from eager by {at or f'{report.largest_difference:.1e}'}{alone}"


def no_program(reports: Sequence[MethodReport]) -> ExportError:
    """Return the error of an export in which every method failed: what to change first, then each method's reason."""
    reasons = "; ".join(f"{report.method}: {one_line(report.error or '')}" for report in reports)
    if len(reports) > 1:
        reasons = f"no method gives a program that equals the module: {reasons}"
        reasons += "" if any(report.method == "aot" for report in reports) else "; aot was not tried"
    said = [report.error or "" for report in reports]
    known = (advice for text in said for pattern, advice in _HINTS.items() if re.search(pattern, text))
    # A single method with an unknown message: the message itself is the best advice.
    advice = next(known, _ANYTHING if len(reports) > 1 else None)
    error = ExportError(reasons if advice is None else f"What to change: {advice}. Found: {reasons}")
    for report in reports:
        error.add_note(describe_report(report))
    return error


# Without these, the compiler may write tensors of any size into the code, where new weights would not reach them.
_AOT_OPTIONS: dict[str, Any] = {
    "always_keep_tensor_constants": True,
    "aot_inductor.use_runtime_constant_folding": False,
    "freezing": False,
}

# The compiler's default is this one processor; a package is for all processors of its kind.
_MARCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}


def export_aot(module: nn.Module, interface: FlatInterface) -> bytes:
    """Return the package ("pt2") of ``module`` for any batch size, in 15 to 40 s. Raises ExportError."""
    shapes = interface.dynamic_shapes(torch.export.Dim(BATCH, min=1))
    with quietly(), torch.no_grad():
        try:
            program = torch.export.export(module, (list(interface.example),), dynamic_shapes=(shapes,), strict=False)
        except Exception as error:  # torch.export's errors are many, and a policy's own code may raise anything
            raise ExportError(f"torch.export: {type(error).__name__}: {error}") from error
    options = {**_AOT_OPTIONS, "aot_inductor.metadata": _aot_metadata(module)}
    if (march := _MARCH.get(torch.backends.cpu.get_cpu_capability())) and hasattr(torch._inductor.config.cpp, "march"):
        options["cpp.march"] = march
    with quietly(), tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "policy.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
        except Exception as error:  # inductor's own errors, and those of the compiler that it calls
            raise ExportError(f"AOTInductor: {type(error).__name__}: {error}") from error
        return path.read_bytes()


def _aot_metadata(module: nn.Module) -> dict[str, str]:
    """Return the machines that the code is for, and the layout of its weights: an actor reads both before loading."""
    layout = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in module_tensors(module).items()
    }
    return {BUILD_KEY: build_name(), LAYOUT_KEY: msgspec.json.encode(layout).decode()}
