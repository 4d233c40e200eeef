"""The methods of the learner's export methods: each makes one program of a module, or says why it cannot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import nn

from learner.export.eager_cases import EagerCases, resized
from learner.export.export_checks import perturbed, write_weights
from learner.export.export_copy import copy_for_export
from learner.export.export_verdicts import EXAMPLE_ROWS, BakedBatchError, taken
from learner.export.flat_module import FlatModule, flat_source
from learner.export.mixed_scripting import PieceCall, piece_calls, with_scripted_pieces, with_traced_pieces
from learner.export.program_checks import ProgramChecks
from shared.engines.engine import Engine
from shared.errors import ExportError, PolicyError
from shared.policy.manifest import WEIGHTS_FILE, MethodReport, ProgramKind
from shared.policy.program_digest import program_digest
from shared.policy.weights import TensorPlace
from shared.scripting.scripting import (
    ScriptModule,
    operations,
    save_archive,
    script,
    script_around,
    trace,
    without_torch_warnings,
)

ExportMethod = Literal["script", "script+trace", "trace+script", "trace", "onnx", "aot"]
EXPORT_METHODS: tuple[ExportMethod, ...] = get_args(ExportMethod)
TORCHSCRIPT_METHODS: tuple[ExportMethod, ...] = ("script", "script+trace", "trace+script", "trace")
_MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True)
class MadeProgram:
    """One program that equals eager."""

    kind: ProgramKind
    data: bytes
    program_digest: str


class MethodRunner:
    """Makes programs of one module and holds them to its cases.

    ``flat`` is the module behind its flat interface, in eval mode. It is read, never changed.
    """

    def __init__(
        self, flat: FlatModule, cases: EagerCases, checks: ProgramChecks, weights: Mapping[str, np.ndarray]
    ) -> None:
        self._flat = flat
        self._cases = cases
        self._checks = checks
        self._weights = weights

    def attempt(
        self, method: ExportMethod, places: Mapping[str, TensorPlace]
    ) -> tuple[MadeProgram | None, MethodReport]:
        """The program of ``method`` and what was said; None where it is not to be had. Raises nothing."""
        try:
            with without_torch_warnings():
                engine, program = self._make(method, places)
                found = self._checks.differences(engine.run, engine.load_weights)
        except BakedBatchError as error:
            return None, _refusal(method, self._explain(error))
        except Exception as error:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
            return None, _refusal(method, error)
        return program, taken(method, found, self._cases.input_sets)

    def _make(self, method: ExportMethod, places: Mapping[str, TensorPlace]) -> tuple[Engine, MadeProgram]:
        if method == "onnx":
            return self._onnx(places)
        if method == "aot":
            return self._aot()
        return self._torchscript(_TORCHSCRIPT[method](self))

    def _torchscript(self, module: ScriptModule) -> tuple[Engine, MadeProgram]:
        from shared.engines.torchscript import TorchScriptEngine

        data = save_archive(module)
        # What is checked is what an actor will load: some modules do not survive being saved.
        return TorchScriptEngine.from_bytes(data), MadeProgram("torchscript", data, program_digest("torchscript", data))

    def _onnx(self, places: Mapping[str, TensorPlace]) -> tuple[Engine, MadeProgram]:
        from learner.export.onnx_export import export_model, with_weights_outside
        from shared.engines.onnx import OnnxEngine

        names = (
            [spec.name for spec in specs] for specs in (self._cases.signature.inputs, self._cases.signature.outputs)
        )
        model = export_model(self._flat, self._cases.example, self._cases.batch_dims, *names)
        graph = with_weights_outside(model, places, WEIGHTS_FILE, keep_constants=True)
        return OnnxEngine(graph, self._weights, bind=False), MadeProgram("onnx", graph, program_digest("onnx", graph))

    def _aot(self) -> tuple[Engine, MadeProgram]:
        from learner.export.aot_export import export_aot
        from shared.engines.aot import AotEngine

        # With no weight that is 0 or 1, as a compiler might take it for.
        flat = copy_for_export(self._flat)
        write_weights(flat, perturbed(self._weights, np.random.default_rng(1)))
        package = export_aot(flat, self._cases.example, self._cases.batch_dims)
        engine = AotEngine(package, self._weights, trust_native=True)  # compiled here, a moment ago
        return engine, MadeProgram("aot", package, engine.program_digest)

    def _script(self) -> ScriptModule:
        return self._around(self._flat.module)

    def _script_with_traced_pieces(self) -> ScriptModule:
        module = self._flat.module
        return self._around(with_traced_pieces(module, self._calls(module)))

    def _around(self, module: nn.Module) -> ScriptModule:
        eager = self._cases.eager
        source, records = flat_source(eager.arguments, self._cases.result, clone=eager.writes_inputs)
        names = {name: eager.classes[class_path] for name, class_path in records.items()}
        return script_around(script(module), source, names)

    def _trace(self) -> ScriptModule:
        return trace(self._flat, (self._cases.example,))

    def _trace_with_scripted_pieces(self) -> ScriptModule:
        return trace(with_scripted_pieces(self._flat, self._calls(self._flat)), (self._cases.example,))

    def _calls(self, module: nn.Module) -> dict[str, PieceCall]:
        return piece_calls(module, lambda: self._flat(self._cases.example))

    def _explain(self, error: BakedBatchError) -> Exception:
        """Tell an unrolled loop from a size that was written down: traced at another size, the program is longer."""
        example = self._cases.example
        more = resized(example, self._cases.batch_dims, EXAMPLE_ROWS + 2)
        try:
            with without_torch_warnings():
                lengths = [len(operations(trace(self._flat, (inputs,)))) for inputs in (example, more)]
        except Exception:  # noqa: BLE001 - the first reason stands
            return error
        if lengths[0] == lengths[1]:
            return error
        return ExportError(
            f"a loop over the batch was baked in: traced at {EXAMPLE_ROWS} rows it has {lengths[0]} operations, "
            f"at {EXAMPLE_ROWS + 2} it has {lengths[1]}; script keeps loops, and tensor operations need none"
        )


_TORCHSCRIPT: Mapping[ExportMethod, Callable[[MethodRunner], ScriptModule]] = {
    "script": MethodRunner._script,
    "script+trace": MethodRunner._script_with_traced_pieces,
    "trace+script": MethodRunner._trace_with_scripted_pieces,
    "trace": MethodRunner._trace,
}


def _refusal(method: ExportMethod, error: Exception) -> MethodReport:
    # torch's own messages stand as they are; ours say what they are about themselves.
    said = str(error).strip() or type(error).__name__
    if not isinstance(error, PolicyError | OSError | RuntimeError):
        said = f"{type(error).__name__}: {said}"
    return MethodReport(method, False, error=said[:_MESSAGE_CHARACTERS])
