"""From a policy in training to the files of a version: programs, weights, and the proof that they belong together.

The programs are made once per run and held to the eager policy; a version is then new weights in the same programs.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from learner.export.export_checks import ExportChecks, perturbed, write_weights
from learner.export.export_copy import copy_for_export
from learner.export.export_verdicts import taken
from learner.export.mixed_scripting import mixed_methods
from learner.export.onnx_export import export_onnx
from shared.engines.eager import EagerEngine, module_tensors
from shared.engines.importable import ImportablePolicy, encode_importable, load_importable
from shared.engines.torchscript import TorchScriptEngine
from shared.errors import ExportError, PolicyError, ProbeMismatch, WeightsError
from shared.policy.manifest import (
    AOT_FILE,
    IMPORTABLE_FILE,
    ONNX_FILE,
    PROBE_FILE,
    TORCHSCRIPT_FILE,
    WEIGHTS_FILE,
    MethodReport,
    ProbeEntry,
    ProgramEntry,
    ProgramKind,
)
from shared.policy.probe import PROBE_ATOL, PROBE_RTOL, Probe, compare, compute_probe, encode_probe, run_policy
from shared.policy.program_digest import program_digest
from shared.policy.signature import PolicySignature
from shared.policy.weights import check_layout, encode_weights, tensor_places
from shared.scripting.scripting import Scripted, ScriptModule, save_archive, try_methods


class PolicyExporter:
    """Exports one policy's programs at once, and the files of a version whenever asked.

    ``module`` is copied, so that what trains goes on undisturbed. ``reports`` tells what each method said. Calls of
    ``files`` must not overlap.
    """

    reports: tuple[MethodReport, ...]

    def __init__(
        self,
        module: nn.Module,
        signature: PolicySignature,
        *,
        importable: ImportablePolicy | None = None,
        onnx: bool = True,
        aot: bool = False,
    ) -> None:
        """Takes seconds where ``onnx`` is asked for, half a minute where ``aot`` is.

        Raises ExportError where no program equals the eager policy.
        """
        self.signature = signature
        self._module = copy_for_export(module)
        self._not_in_state_dict = self._arrays().keys() - self._module.state_dict().keys()
        self._checks = ExportChecks(self._module, signature)
        self._programs: list[ProgramEntry] = []
        self._constant_files: dict[str, bytes] = {}
        self._reports: list[MethodReport] = []
        self._scripted = self._export_torchscript()
        if onnx:
            self._export_onnx()
        if aot:
            self._export_aot()
        if importable is not None:
            self._export_importable(importable)
        self.reports = tuple(self._reports)
        if not self._programs:
            said = "; ".join(f"{report.method}: {report.error}" for report in self.reports)
            raise ExportError(f"no program equals the eager policy: {said}{'' if aot else '; aot was not tried'}")

    def files(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, bytes], tuple[ProgramEntry, ...], ProbeEntry]:
        """The bytes of a version with these ``weights`` (a state dict), its programs and its probe. Takes milliseconds.

        Raises WeightsError for weights that are another network's or not finite, ExportError where the outputs are not.
        """
        write_weights(self._module, self._fitting(weights))
        probe = compute_probe(self._module, self.signature)
        files = {
            WEIGHTS_FILE: encode_weights(self._arrays()),
            PROBE_FILE: encode_probe(probe, self.signature),
            **self._constant_files,
        }
        if self._scripted is not None:
            self._check_scripted(self._scripted, probe)
            files[TORCHSCRIPT_FILE] = save_archive(self._scripted.module)
        return files, tuple(self._programs), ProbeEntry(PROBE_FILE, PROBE_ATOL, PROBE_RTOL)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in module_tensors(self._module).items()}

    def _fitting(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """``weights`` as arrays, with the buffers that a state dict leaves out."""
        mine = self._arrays()
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}
        arrays |= {name: mine[name] for name in self._not_in_state_dict - arrays.keys()}
        check_layout(mine, arrays)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise WeightsError(f"{name} holds values that are not finite: training has diverged")
        return arrays

    def _check_scripted(self, scripted: Scripted, probe: Probe) -> None:
        found = run_policy(scripted.module, self.signature, probe.inputs)
        try:
            compare(probe.outputs, found, self.signature, PROBE_ATOL, PROBE_RTOL)
        except ProbeMismatch as error:
            raise ExportError(f"with these weights the program no longer equals the eager policy: {error}") from error

    def _export_torchscript(self) -> Scripted | None:
        found: dict[int, float] = {}

        def check(program: ScriptModule) -> float:
            # What an actor runs: a tensor that TorchScript does not keep as one could not be replaced there.
            engine = TorchScriptEngine.from_bytes(save_archive(program))
            found.update(self._checks.differences(engine.run, engine.load_weights))
            return max(found.values())

        example = self._checks.example
        scripted, failures = try_methods(self._module, example, check, mixed_methods(self._module, example))
        self._reports += failures
        if scripted is not None:
            digest = program_digest("torchscript", save_archive(scripted.module))
            self._programs.append(ProgramEntry("torchscript", TORCHSCRIPT_FILE, digest))
            self._reports.append(taken(scripted.method, found, self._checks.input_sets))
        return scripted

    def _export_onnx(self) -> None:
        from shared.engines.onnx import OnnxEngine

        places = tensor_places(encode_weights(self._checks.weights))
        try:
            # A copy again, since exporting may leave its marks on a module.
            graph = export_onnx(copy_for_export(self._module), self.signature, places, WEIGHTS_FILE)
            engine = OnnxEngine(graph, self._checks.weights)
            found = self._checks.differences(engine.run, engine.load_weights)
        except PolicyError as error:
            self._refuse("onnx", error)
        else:
            self._take("onnx", ONNX_FILE, graph, program_digest("onnx", graph), found)

    def _export_aot(self) -> None:
        from learner.export.aot_export import export_aot
        from shared.engines.aot import AotEngine

        # As above; and with no weight that is 0 or 1, as a compiler might take it for.
        module = copy_for_export(self._module)
        write_weights(module, perturbed(self._checks.weights, np.random.default_rng(1)))
        example = self._checks.example
        try:
            package = export_aot(module, example, [0] * len(example))
            engine = AotEngine(package, self._checks.weights, trust_native=True)  # compiled here, just now
            found = self._checks.differences(engine.run, engine.load_weights)
        except PolicyError as error:
            self._refuse("aot", error)
        else:
            self._take("aot", AOT_FILE, package, engine.program_digest, found)

    def _export_importable(self, importable: ImportablePolicy) -> None:
        data = encode_importable(importable)
        digest = program_digest("importable", data)
        try:
            # The learner's own class is one that it trusts.
            module = load_importable(data, self._checks.weights, [importable.class_path.partition(":")[0]])
            engine = EagerEngine(module, digest)
            found = self._checks.differences(engine.run, engine.load_weights)
        except PolicyError as error:
            self._refuse("importable", error)
        else:
            self._take("importable", IMPORTABLE_FILE, data, digest, found)

    def _take(self, method: ProgramKind, file: str, data: bytes, digest: str, found: Mapping[int, float]) -> None:
        self._constant_files[file] = data
        self._programs.append(ProgramEntry(method, file, digest))
        self._reports.append(taken(method, found, self._checks.input_sets))

    def _refuse(self, method: str, error: PolicyError) -> None:
        self._reports.append(MethodReport(method, False, error=f"{type(error).__name__}: {error}"))
