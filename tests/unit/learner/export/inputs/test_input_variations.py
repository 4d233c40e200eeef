"""Programs that are right for small inputs or small batches only are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.verification.probe_verifier import ProbeVerifier
from learner.export.inputs.input_variations import MAGNITUDES, widened, with_wide_rows
from learner.export.module_export import export_module
from learner.export.policy_export import PolicyExporter, policy_checks
from learner.export.program_checks import affordable_sizes, write_weights
from learner.export.spaces_policy import SpacesPolicy
from learner.publishing.policy_publisher import publish_policy
from shared.engines.eager import EagerEngine
from shared.engines.load import load_program
from shared.errors import ExportError, ProbeMismatch
from shared.policy.probe import PROBE_ATOL, PROBE_RTOL, Probe, compare, compute_probe, decode_probe, run_policy
from shared.store.policy_store import LocalPolicyStore
from tests.support.policies import CASES, make_policy, make_version
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy

VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)


class Doubles(nn.Module):
    """Multiplies the numbers of a row by two where one of its inputs is above ``above``."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.above = above

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return torch.where(x.amax(-1, keepdim=True) > self.above, 2 * y, y)


class Flips(nn.Module):
    """Changes its sign for batches of ``rows`` and more."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if x.shape[0] >= self.rows:
            y = -y
        return y


class LogOfSigmoid(nn.Module):
    """Its sigmoid is 0 in ONNX Runtime where it is small."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.sigmoid(x)).clamp(min=-1000)


@pytest.mark.parametrize("above", [7.0, 70.0, 7e3])
def test_a_program_that_is_right_for_small_inputs_only_is_refused(above: float) -> None:
    actions = spaces.Box(-np.inf, np.inf, (3,))
    policy, program = (SpacesPolicy(Doubles(limit), VECTOR, actions).eval() for limit in (above, np.inf))
    program.load_state_dict(policy.state_dict())
    checks = policy_checks(policy, policy.signature)
    assert {case.magnitude for case in checks.cases} == {None, *MAGNITUDES}
    with pytest.raises(ExportError, match="right for small inputs only: for numbers up to"):
        checks.differences(EagerEngine(program, "").run, lambda weights: write_weights(program, weights))
    checks.differences(EagerEngine(policy, "").run, lambda weights: write_weights(policy, weights))


def test_a_graph_that_is_right_for_small_inputs_only_is_refused(tmp_path: Path) -> None:
    report = export_module(LogOfSigmoid(), (torch.rand(3, 4),), tmp_path / "m")
    assert report.taken == ("script",)
    assert "right for small inputs only: for numbers up to 100 " in (report.methods[-1].error or "")


class Rises(TinyPolicy):
    """Its value is ``function`` of a sum, which for wide inputs overflows or turns on rounding."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, _ = super().forward(inputs)
        return [action, log_prob, self.function(inputs[0].sum(-1))]


def published(policy: nn.Module) -> Probe:
    """The probe of a version of a policy under the contract."""
    exporter = PolicyExporter(policy, policy.signature, onnx=False)
    return decode_probe(exporter.files(policy.state_dict())[0]["probe.safetensors"], policy.signature)


def test_published_probes_have_wide_inputs() -> None:
    torch.manual_seed(0)
    policy = Rises(torch.abs)
    version = make_version(PolicyExporter(policy, TINY_SIGNATURE, onnx=False), policy.state_dict())
    probe = decode_probe(version.read("probe.safetensors"), TINY_SIGNATURE)
    sizes = np.abs(probe.inputs[0]).max(axis=1)
    assert (sizes[:4] < 5).all(), "the first half is plausible"
    assert ((sizes[4:] > [5e3, 50, 5, 0]) & (sizes[4:] <= [1e4, 100, 10, 1e-6])).all()
    assert (probe.inputs[0][4:] == 0).any()
    engine = load_program("torchscript", version.read, version.manifest)
    verifier = ProbeVerifier(version.manifest, probe, batch_size=8)
    verifier.verify(engine.run)
    for limit in (5e3, 50, 5):  # exact for inputs up to it
        with pytest.raises(ProbeMismatch):
            verifier.verify(lambda inputs, limit=limit: engine.run([inputs[0].clip(-limit, limit), inputs[1]]))


@pytest.mark.parametrize("case", CASES)
def test_rounding_decides_nothing_in_a_published_probe(case: str) -> None:
    """Another processor rounds otherwise: here, each float moves by a few units in the last place."""
    torch.manual_seed(1)
    policy = make_policy(case).eval()
    probe = with_wide_rows(policy, policy.signature, compute_probe(policy, policy.signature))
    generator = np.random.default_rng(5)
    near = [
        np.asarray(array * (1 + generator.choice([-4e-7, 4e-7], array.shape)), array.dtype)
        if spec.role in ("observation", "state") and array.dtype.kind == "f"
        else array
        for spec, array in zip(policy.signature.inputs, probe.inputs, strict=True)
    ]
    compare(probe.outputs, run_policy(policy, policy.signature, near), policy.signature, PROBE_ATOL, PROBE_RTOL)


@pytest.mark.parametrize(
    ("function", "largest"),
    [(torch.exp, 100), (lambda x: torch.sin(100 * x), 10), (lambda x: torch.sin(1e4 * x), 5)],
    ids=["overflows", "oscillates", "oscillates faster"],
)
def test_wide_inputs_that_a_policy_does_not_bear_are_left_out(function: Callable, largest: float) -> None:
    torch.manual_seed(0)
    policy = Rises(function).eval()
    probe = with_wide_rows(policy, TINY_SIGNATURE, compute_probe(policy, TINY_SIGNATURE))
    assert np.isfinite(probe.outputs[2]).all()
    assert np.abs(probe.inputs[0]).max() <= largest
    found = run_policy(policy, TINY_SIGNATURE, probe.inputs)
    compare(probe.outputs, found, TINY_SIGNATURE, 1e-6, 1e-6)


def test_bytes_of_images_are_all_0_or_255_in_wide_rows() -> None:
    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 3)

        def forward(self, image: Tensor) -> Tensor:
            return self.linear(image.flatten(1) / 255)

    space = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    image = published(SpacesPolicy(Sees(), space, spaces.Discrete(3))).inputs[0]
    assert set(np.unique(image[4:])) == {0, 255}
    assert len(np.unique(image[:4])) > 10


@pytest.mark.parametrize("rows", [20, 100, 1000])
def test_a_trace_that_is_right_for_small_batches_only_is_refused(rows: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the batch size was baked in"):
        export_module(Flips(rows), (torch.randn(3, 4),), tmp_path / "m", how="trace")


def test_a_policy_that_treats_large_batches_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="compute each row from that row alone: in a batch of 1000 rows"):
        publish_policy(Flips(500), VECTOR, spaces.Discrete(3), tmp_path)


def test_an_actor_verifies_batches_that_are_larger_than_those_tried(tmp_path: Path) -> None:
    manifest = publish_policy(Flips(2000), VECTOR, spaces.Discrete(3), tmp_path)
    tried = [report.by_batch_size for report in manifest.export if report.taken]
    assert all(isinstance(sizes, dict) and max(map(int, sizes)) == 1000 for sizes in tried)
    options = AgentOptions(num_envs=2048, engine="torchscript", synchronous=True, sandbox=None)
    agent = Agent(LocalPolicyStore(tmp_path), options)
    try:
        agent.reset()
        assert agent.policy.engine_name == "llvm", "the program on TorchScript flips the sign of 2,048 rows"
    finally:
        agent.close()


def test_calls_of_large_batches_are_affordable() -> None:
    assert affordable_sizes((33, 129, 1000), 4, 5_000) == [33, 129, 1000]
    assert affordable_sizes((33, 129, 1000), 84 * 84 * 4, 10**6) == [33, 129]
    assert affordable_sizes((33, 129, 1000), 4, 10**8) == []


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_wide_inputs_are_finite_and_of_all_sizes_and_signs(magnitude: float, dtype: type) -> None:
    wide = widened(np.zeros((64, 4), dtype), magnitude, np.random.default_rng(0))
    assert wide.dtype == dtype
    assert np.isfinite(wide).all()
    assert (wide[0] >= 0.45 * magnitude).all()
    assert (wide[1] <= -0.45 * magnitude).all()
    assert (wide == 0).sum() >= 1
    assert (np.abs(wide[wide != 0]) <= 2e-6).any()
    assert widened(np.zeros((), dtype), magnitude, np.random.default_rng(0)).shape == ()
