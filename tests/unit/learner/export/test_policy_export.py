import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.export.policy_export import PolicyExporter
from shared.engines.eager import module_tensors
from shared.engines.importable import ImportablePolicy, load_importable
from shared.engines.load import load_program
from shared.errors import ExportError, ProgramError, WeightsError
from shared.policy.manifest import WEIGHTS_FILE
from shared.policy.probe import compare, decode_probe, run_policy
from shared.policy.program_digest import program_digest
from shared.policy.weights import data_start, decode_weights
from tests.support.impure_policies import REASONS, AroundPolicy
from tests.support.policies import CASES, make_policy, make_version
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy


@pytest.fixture(scope="module")
def exporter() -> PolicyExporter:
    importable = ImportablePolicy("tests.support.tiny_policy:TinyPolicy", {"hidden": 8})
    return PolicyExporter(TinyPolicy(), TINY_SIGNATURE, importable=importable)


def test_every_method_is_reported(exporter: PolicyExporter) -> None:
    assert [(report.method, report.taken, report.error) for report in exporter.reports] == [
        ("script", True, None),
        ("onnx", True, None),
        ("importable", True, None),
    ]
    assert all(
        report.largest_difference is not None and report.largest_difference <= 1e-5 for report in exporter.reports
    )


def test_a_version_has_everything_that_its_manifest_needs(exporter: PolicyExporter) -> None:
    files, programs, probe = exporter.files(TinyPolicy().state_dict())
    assert {program.file for program in programs} | {"weights.safetensors", probe.file} == set(files)
    digests = {program.kind: program.program_digest for program in programs}
    assert digests["torchscript"] == program_digest("torchscript", files["policy.ts"])
    assert digests["onnx"] == program_digest("onnx", files["policy.onnx"])


def test_versions_differ_only_in_weights_and_probe(exporter: PolicyExporter) -> None:
    (one, programs, _), (two, same_programs, _) = (exporter.files(TinyPolicy().state_dict()) for _ in range(2))
    assert programs == same_programs
    assert one["policy.onnx"] == two["policy.onnx"]
    assert one["policy.ts"] == two["policy.ts"]
    assert one["weights.safetensors"] != two["weights.safetensors"]
    start = data_start(one["weights.safetensors"])
    assert one["weights.safetensors"][:start] == two["weights.safetensors"][:start]
    assert one["probe.safetensors"] != two["probe.safetensors"]


def test_no_program_repeats_the_weights() -> None:
    wide = TinyPolicy(hidden=20_000)
    files, _, _ = PolicyExporter(wide, TINY_SIGNATURE).files(wide.state_dict())
    assert len(files["weights.safetensors"]) > 600_000
    assert all(len(files[name]) < 30_000 for name in ("policy.ts", "policy.onnx"))


def test_the_same_weights_give_the_same_version(exporter: PolicyExporter) -> None:
    weights = TinyPolicy().state_dict()
    first = exporter.files(weights)
    exporter.files(TinyPolicy().state_dict())
    assert exporter.files(weights) == first


def test_the_probe_is_what_the_trained_module_computes(exporter: PolicyExporter) -> None:
    policy = TinyPolicy().eval()
    files, _, _ = exporter.files(policy.state_dict())
    probe = decode_probe(files["probe.safetensors"], TINY_SIGNATURE)
    found = run_policy(policy, TINY_SIGNATURE, probe.inputs)
    assert compare(probe.outputs, found, TINY_SIGNATURE, 1e-6, 1e-6) <= 1e-6
    for name, array in decode_weights(files["weights.safetensors"]).items():
        np.testing.assert_array_equal(array, policy.state_dict()[name].numpy())


def test_every_program_computes_the_probe(exporter: PolicyExporter) -> None:
    version = make_version(exporter, TinyPolicy().state_dict())
    probe = decode_probe(version.read("probe.safetensors"), TINY_SIGNATURE)
    for kind in ("torchscript", "onnx"):
        found = load_program(kind, version.read, version.manifest).run(probe.inputs)
        compare(probe.outputs, found, TINY_SIGNATURE, 1e-5, 1e-5)
    weights = decode_weights(version.read("weights.safetensors"))
    module = load_importable(version.read("importable.json"), weights, ["tests"])
    compare(probe.outputs, run_policy(module, TINY_SIGNATURE, probe.inputs), TINY_SIGNATURE, 1e-5, 1e-5)


def test_a_program_that_is_not_the_one_promised_is_refused(exporter: PolicyExporter) -> None:
    version = make_version(exporter, TinyPolicy().state_dict())
    other = make_version(PolicyExporter(TinyPolicy(9), TINY_SIGNATURE, onnx=False), TinyPolicy(9).state_dict())
    files = {**other.files, "policy.onnx": version.read("policy.onnx")}
    with pytest.raises(ProgramError, match="expected the program digest"):
        load_program("torchscript", files.__getitem__, version.manifest)
    with pytest.raises(ProgramError, match="has no onnx program"):
        load_program("onnx", other.read, other.manifest)


def test_the_module_that_trains_is_left_alone() -> None:
    policy = TinyPolicy().train()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    exporter = PolicyExporter(policy, TINY_SIGNATURE, onnx=False)
    exporter.files(TinyPolicy().state_dict())
    assert policy.training
    assert all(parameter.requires_grad for parameter in policy.parameters())
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, before[name])


def spoiled(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**TinyPolicy().state_dict(), name: tensor}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (spoiled("head.bias", torch.full((3,), float("nan"))), r"head\.bias .* diverged"),
        (spoiled("head.bias", torch.full((3,), float("inf"))), r"head\.bias .* diverged"),
        (spoiled("more", torch.zeros(1)), "unexpected"),
        (spoiled("head.bias", torch.zeros(4)), r"head\.bias: expected float32 \(3,\)"),
        (TinyPolicy(9).state_dict(), "expected float32"),
        ({}, "missing"),
    ],
    ids=["NaN", "infinite", "surplus", "shape", "another network", "nothing"],
)
def test_weights_that_cannot_act_are_not_exported(
    exporter: PolicyExporter, weights: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        exporter.files(weights)
    exporter.files(TinyPolicy().state_dict())  # and the next ones are


def test_weights_whose_outputs_overflow_are_not_exported(exporter: PolicyExporter) -> None:
    with pytest.raises(ExportError, match="not finite"):
        exporter.files(spoiled("head.weight", torch.full((3, 8), 3e38)))


class LeavesOut(nn.Module):
    """A buffer that the state dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.register_buffer("offset", torch.ones(3), persistent=False)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        logits = self.body(inputs[0]) + self.offset
        return [(logits + inputs[1]).argmax(-1), logits.sum(-1), logits.logsumexp(-1)]


def test_buffers_that_a_state_dict_leaves_out_are_published() -> None:
    policy = LeavesOut()
    version = make_version(PolicyExporter(policy, TINY_SIGNATURE), policy.state_dict())
    np.testing.assert_array_equal(decode_weights(version.read("weights.safetensors"))["offset"], np.ones(3))
    assert {program.kind for program in version.manifest.programs} == {"torchscript", "onnx"}
    for kind in ("torchscript", "onnx"):
        load_program(kind, version.read, version.manifest)


class Tied(nn.Module):
    """One parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = self.two(torch.tanh(self.one(inputs[0])))
        logits = x[:, :3]
        return [(logits + inputs[1]).argmax(-1), logits.sum(-1), logits.logsumexp(-1)]


class OptionalScale(TinyPolicy):
    """TorchScript keeps an optional tensor as an attribute, which is none of the weights and cannot be replaced."""

    scale: Tensor | None

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        scale = self.scale
        logits = self.head(torch.tanh(self.body(inputs[0])))
        if scale is not None:
            logits = logits * scale
        logits = torch.log_softmax(logits, -1)
        action = (logits + inputs[1]).argmax(-1)
        return [action, logits.gather(-1, action.unsqueeze(-1)).squeeze(-1), logits.sum(-1)]


def test_program_with_irreplaceable_weights_is_refused() -> None:
    exporter = PolicyExporter(OptionalScale(), TINY_SIGNATURE, onnx=False)
    reports = {report.method: report for report in exporter.reports}
    assert not reports["script"].taken
    assert "unexpected ['scale']" in str(reports["script"].error)
    assert reports["trace"].taken


@pytest.mark.parametrize("kind", REASONS)
def test_impure_policy_is_refused_with_its_reason(kind: type[AroundPolicy]) -> None:
    policy = kind()
    with pytest.raises(ExportError, match=REASONS[kind]):
        PolicyExporter(policy, policy.signature, onnx=False)


def test_tied_parameters_stay_tied() -> None:
    exporter = PolicyExporter(Tied(), TINY_SIGNATURE)
    assert {report.method for report in exporter.reports if report.taken} == {"script", "onnx"}
    version = make_version(exporter, Tied().state_dict())
    probe = decode_probe(version.read("probe.safetensors"), TINY_SIGNATURE)
    for kind in ("torchscript", "onnx"):
        found = load_program(kind, version.read, version.manifest).run(probe.inputs)
        compare(probe.outputs, found, TINY_SIGNATURE, 1e-5, 1e-5)


class NeedsBoth(TinyPolicy):
    """Code that TorchScript does not read, around a decision that a trace would lose."""

    def __init__(self, decides: nn.Module) -> None:
        super().__init__()
        self.decides = decides

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers = {1: 2.0, "two": 3.0}
        logits = self.decides(self.head(torch.tanh(self.body(inputs[0]))) * numbers[1], inputs[0])
        return [(logits + inputs[1]).argmax(-1), logits.sum(-1), logits.logsumexp(-1)]


class Decides(nn.Module):
    def forward(self, logits: Tensor, x: Tensor) -> Tensor:
        if bool(x.min() > 0.5):
            return -3 * logits
        return logits


class DecidesUnread(nn.Module):
    def forward(self, *tensors: Tensor) -> Tensor:
        return -3 * tensors[0] if tensors[1].min() > 0.5 else tensors[0]


def test_decision_is_scripted_within_a_trace() -> None:
    policy = NeedsBoth(Decides())
    exporter = PolicyExporter(policy, TINY_SIGNATURE, onnx=False)
    report = exporter.reports[-1]
    assert [r.method for r in exporter.reports] == ["script", "script+trace", "trace+script"]
    assert report.taken
    assert isinstance(report.by_batch_size, dict)
    assert set(report.by_batch_size) == {"1", "3", "33", "64", "129", "1000"}
    assert report.input_sets == 2
    version = make_version(exporter, policy.state_dict())
    engine = load_program("torchscript", version.read, version.manifest)
    for x in (np.ones((3, 4), np.float32), -np.ones((3, 4), np.float32)):
        inputs = [x, np.zeros((3, 3), np.float32)]
        compare(run_policy(policy.eval(), TINY_SIGNATURE, inputs), engine.run(inputs), TINY_SIGNATURE, 1e-5, 1e-5)


def test_decision_that_cannot_be_scripted_is_refused() -> None:
    with pytest.raises(ExportError, match=r" trace: a branch or a value was baked in: "):
        PolicyExporter(NeedsBoth(DecidesUnread()), TINY_SIGNATURE, onnx=False)


class BakesItsBatch(TinyPolicy):
    """Neither scripted nor right at another batch size than the one that it was traced with."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers = {1: 2.0, "two": 3.0}
        hidden = torch.stack([torch.tanh(self.body(row)) for row in inputs[0]])
        logits = self.head(hidden) * numbers[1]
        return [(logits + inputs[1]).argmax(-1), logits.sum(-1), logits.logsumexp(-1)]


def test_error_names_every_method_if_nothing_equals_eager() -> None:
    with pytest.raises(ExportError, match=r"(?s)script: .*trace: .*onnx: "):
        PolicyExporter(BakesItsBatch(), TINY_SIGNATURE)


def test_an_importable_policy_needs_no_other_program() -> None:
    importable = ImportablePolicy(f"{__name__}:BakesItsBatch")
    exporter = PolicyExporter(BakesItsBatch(), TINY_SIGNATURE, importable=importable, onnx=False)
    files, programs, _ = exporter.files(BakesItsBatch().state_dict())
    assert [program.kind for program in programs] == ["importable"]
    assert "policy.ts" not in files


def test_importable_policy_of_another_network_is_refused() -> None:
    importable = ImportablePolicy("tests.support.tiny_policy:TinyPolicy", {"hidden": 9})
    exporter = PolicyExporter(TinyPolicy(), TINY_SIGNATURE, importable=importable, onnx=False)
    assert [(report.method, report.taken) for report in exporter.reports] == [("script", True), ("importable", False)]
    assert "these weights belong to another network" in (exporter.reports[1].error or "")


@pytest.mark.parametrize("case", CASES)
def test_our_own_policies_are_scripted(case: str) -> None:
    policy = make_policy(case)
    reports = PolicyExporter(policy, policy.signature, onnx=False).reports
    assert [(report.method, report.error) for report in reports] == [("script", None)]


def test_wrong_signature_is_refused() -> None:
    policy = make_policy("vector, discrete")
    with pytest.raises(ExportError):
        PolicyExporter(policy, make_policy("vector, float64 box").signature, onnx=False)


class MaskedForever(TinyPolicy):
    """Has an additive mask with an infinity, which never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("never", torch.tensor([0.0, 0.0, -torch.inf]))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        logits = torch.log_softmax(self.head(torch.tanh(self.body(inputs[0]))) * torch.exp(self.never), -1)
        action = (logits + inputs[1]).argmax(-1)
        return [action, logits.gather(-1, action.unsqueeze(-1)).squeeze(-1), logits.sum(-1)]


def test_a_buffer_with_infinities_belongs_to_the_program() -> None:
    module = MaskedForever()
    exporter = PolicyExporter(module, TINY_SIGNATURE, onnx=False)
    files, *_ = exporter.files(module_tensors(module))
    assert "never" not in decode_weights(files[WEIGHTS_FILE])
    module.never[0] = -torch.inf
    with pytest.raises(WeightsError, match="export again: never has infinities"):
        exporter.files(module_tensors(module))
