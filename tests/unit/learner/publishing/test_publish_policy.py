"""Modules published for agents by their spaces alone."""

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from actor.acting import module_call
from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.export.policy_export import PolicyExporter
from learner.export.spaces_policy import SpacesPolicy
from learner.publishing.policy_publisher import publish_policy
from shared.errors import ConfigurationError, ExportError
from shared.policy.manifest import WEIGHTS_FILE
from shared.policy.weights import decode_weights
from shared.store.policy_store import LocalPolicyStore
from tests.support.policies import make_policy

# The programs are made here; test_module_call.py holds the tests of the sandbox.
load_policy = partial(module_call.load_policy, sandbox=None)

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
NESTED = spaces.Dict({"camera": spaces.Box(0, 255, (4, 4, 3), np.uint8), "body": spaces.Tuple((VECTOR, VECTOR))})


class Recurrent(nn.Module):
    """Nested observation, state as a pair, a decision on data, outputs in an order of its own."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4 * 4 * 3 + 8, 6)
        self.head = nn.Linear(6, n_outputs)
        self.value = nn.Linear(6, 1)

    def forward(self, observation: dict[str, Any], state: tuple[Tensor, Tensor]) -> list[Any]:
        first, second = observation["body"]
        x = torch.cat([observation["camera"].flatten(1) / 255.0, first, second], 1)
        h, c = self.cell(x, state)
        return [self.value(h), (h, c), self.head(h)]


def act(store: LocalPolicyStore, space: spaces.Space[Any], n: int = 3) -> np.ndarray:
    agent = Agent(store, AgentOptions(num_envs=n, synchronous=True, deadline_s=10.0, seed=0))
    try:
        agent.reset()
        batch = [space.sample() for _ in range(n)]
        if isinstance(space, spaces.Dict):
            camera = np.stack([row["camera"] for row in batch])
            body = tuple(np.stack([row["body"][i] for row in batch]) for i in range(2))
            return np.asarray(agent.act({"camera": camera, "body": body}))
        return np.asarray(agent.act(np.stack(batch)))
    finally:
        agent.close()


@pytest.mark.parametrize(
    ("action", "n_outputs"),
    [
        (spaces.Discrete(3, start=1), 3),
        pytest.param(spaces.MultiDiscrete([2, 3]), 5, marks=pytest.mark.slow),
        pytest.param(spaces.MultiBinary(4), 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_logits_become_a_policy_that_agents_act_with(action: spaces.Space[Any], n_outputs: int, tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path)
    state = (torch.zeros(1, 6), torch.zeros(1, 6))
    manifest = publish_policy(
        Recurrent(n_outputs), NESTED, action, store, state=state, outputs=("value", "state", "logits")
    )
    assert [spec.name for spec in manifest.signature.state] == ["state.0", "state.1"]
    assert {program.kind for program in manifest.programs} == {"torchscript", "onnx"}
    assert all(action.contains(row) for row in act(store, NESTED))
    assert callable(load_policy(tmp_path / f"v{manifest.version:06d}", sandbox=None))


class Gaussian(nn.Module):
    def __init__(self, drawn: bool, n: int = 2) -> None:
        super().__init__()
        self.mean = nn.Linear(4, n)
        self.log_std = nn.Parameter(torch.zeros(n))
        self.drawn = drawn

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {"mean": self.mean(x)}
        if self.drawn:
            found["log_std"] = self.log_std
        return found


@pytest.mark.parametrize("drawn", [False, True])
def test_means_become_a_policy_with_and_without_noise(drawn: bool, tmp_path: Path) -> None:
    action = spaces.Box(-0.5, 0.5, (2,), np.float32)
    manifest = publish_policy(Gaussian(drawn), VECTOR, action, tmp_path)
    assert ("noise" in manifest.signature.input_names) is drawn
    assert ("log_prob" in manifest.signature.output_names) is drawn
    assert all(action.contains(row) for row in act(LocalPolicyStore(tmp_path), VECTOR))


@pytest.mark.parametrize("shape", [(2, 2), ()], ids=str)
def test_box_actions_of_any_shape_act(shape: tuple[int, ...], tmp_path: Path) -> None:
    action = spaces.Box(-0.5, 0.5, shape, np.float32)
    publish_policy(Gaussian(True, math.prod(shape)), VECTOR, action, tmp_path)
    assert act(LocalPolicyStore(tmp_path), VECTOR).shape == (3, *shape)
    agent = Agent(LocalPolicyStore(tmp_path), AgentOptions(synchronous=True, sandbox=None))
    try:
        agent.reset()
        found = agent.act(VECTOR.sample())
        assert isinstance(found, np.ndarray)
        assert action.contains(found)
    finally:
        agent.close()


class Deviates(nn.Module):
    def __init__(self, n: int, log_std: Tensor, batched: bool) -> None:
        super().__init__()
        self.n, self.log_std, self.batched = n, log_std, batched

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        log_std = self.log_std.expand(x.shape[0], *self.log_std.shape) if self.batched else self.log_std
        return {"mean": x[:, : self.n], "log_std": log_std}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((2, 2), (4,)), ((2, 2), (2, 2)), ((2, 2), (1,)), ((), ()), ((), (1,)), ((3,), (3,)), ((3,), (1,))],
    ids=str,
)
def test_a_deviation_is_for_each_action_or_for_all(
    shape: tuple[int, ...], sizes: tuple[int, ...], batched: bool
) -> None:
    """The published log-probability is that of torch's normal distribution."""
    n, log_std = math.prod(shape), torch.linspace(-1, 1, math.prod(sizes)).reshape(sizes)
    policy = SpacesPolicy(Deviates(n, log_std, batched), VECTOR, spaces.Box(-np.inf, np.inf, shape, np.float32))
    x, noise = torch.randn(3, 4), torch.randn(3, *shape)
    found, log_prob = policy([x, noise])
    std = log_std.flatten().exp().expand(3, n)
    expected = x[:, :n] + std * noise.reshape(3, n)
    torch.testing.assert_close(found.reshape(3, n), expected)
    torch.testing.assert_close(log_prob, torch.distributions.Normal(x[:, :n], std).log_prob(expected).sum(1))


@pytest.mark.parametrize("action", [spaces.Box(-1, 1, (3,)), spaces.MultiBinary(3)], ids=str)
def test_a_mask_without_choices_is_refused(action: spaces.Space[Any], tmp_path: Path) -> None:
    class Masked(OneLayer):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.linear(x)

    with pytest.raises(ConfigurationError, match="publish without masked: a mask allows single choices") as refused:
        publish_policy(Masked(), VECTOR, action, tmp_path, masked=True)
    assert len(str(refused.value)) < 300
    assert not any(tmp_path.iterdir())


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)


def test_a_decision_inside_survives(tmp_path: Path) -> None:
    class Decides(OneLayer):
        def forward(self, x: Tensor) -> Tensor:
            logits = self.linear(x)
            if bool(self.linear.weight.sum() > 0):
                logits = -logits
            return logits

    manifest = publish_policy(Decides(), VECTOR, spaces.Discrete(3), tmp_path)
    assert [report.method for report in manifest.export if report.taken] == ["script"]


def test_branch_that_plausible_inputs_rarely_take_survives(tmp_path: Path) -> None:
    class Seldom(OneLayer):
        def forward(self, x: Tensor) -> Tensor:
            if x.min() > 0.5:
                return -3 * self.linear(x)
            return self.linear(x)

    module = Seldom()
    manifest = publish_policy(module, VECTOR, spaces.Discrete(3), tmp_path)
    assert [report.method for report in manifest.export if report.taken] == ["script"]
    policy = load_policy(tmp_path / f"v{manifest.version:06d}", sandbox=None)
    for x in (torch.full((2, 4), 0.9), torch.full((2, 4), 0.1)):
        assert torch.equal(policy([x, torch.zeros(2, 3)])[0], module(x).argmax(-1))


def test_a_loop_over_code_without_types_survives(tmp_path: Path) -> None:
    class Step(OneLayer):
        def forward(self, *rows: Tensor) -> Tensor:
            return torch.tanh(self.linear(rows[0]))

    class RowByRow(nn.Module):
        """Has to be scripted for its loop, and its piece traced."""

        def __init__(self) -> None:
            super().__init__()
            self.step = Step()

        def forward(self, x: Tensor) -> Tensor:
            rows = []
            for i in range(x.shape[0]):
                rows.append(self.step(x[i : i + 1]))
            return torch.cat(rows)

    manifest = publish_policy(RowByRow(), VECTOR, spaces.Discrete(3), tmp_path)
    assert [report.method for report in manifest.export if report.taken] == ["script+trace"], manifest.export


class Named(NamedTuple):
    """A result with names."""

    value: Tensor
    logits: Tensor


class Answers(OneLayer):
    """Gives its logits in any form; its decision can only be scripted."""

    def logits(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if bool(self.linear.bias[0] > 1000):
            y = -y
        return y


class AnswersTensor(Answers):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


class AnswersNames(Answers):
    def forward(self, x: Tensor) -> Named:
        return Named(self.linear(x).sum(-1, keepdim=True), self.logits(x))


class AnswersState(Answers):
    def forward(
        self, x: dict[str, Tensor], state: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.logits(x["b"] + x["a"]) + state[0] * mask
        return y, (y - state[1], state[0])


class AnswersMean(Answers):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"log_std": torch.tanh(self.linear(x))[:, :1], "mean": self.logits(x)}


class AnswersAction(Answers):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"action": self.logits(x).argmax(-1)}


PAIR = spaces.Dict({"a": VECTOR, "b": VECTOR})
STATE = {"state": (torch.zeros(1, 3), torch.zeros(1, 3)), "masked": True}


@pytest.mark.parametrize(
    ("module", "observation", "action", "options"),
    [
        (AnswersTensor, VECTOR, spaces.Discrete(3, start=2), {}),
        (AnswersTensor, VECTOR, spaces.MultiBinary(3), {}),
        (AnswersTensor, VECTOR, spaces.Box(-1, 1, (3,), np.float64), {}),
        (AnswersNames, VECTOR, spaces.MultiDiscrete([2, 1], start=[1, 0]), {}),
        (AnswersState, PAIR, spaces.MultiDiscrete([2, 1]), {**STATE, "outputs": ("logits", "state")}),
        (AnswersMean, VECTOR, spaces.Box(-np.inf, np.inf, (1, 3)), {}),
        (AnswersMean, VECTOR, spaces.Box(-1, np.inf, (3,)), {}),
        (AnswersAction, VECTOR, spaces.Discrete(3), {}),
    ],
)
def test_the_wrapper_can_be_scripted_where_the_module_can(
    module: type[Answers], observation: spaces.Space[Any], action: spaces.Space[Any], options: dict[str, Any]
) -> None:
    policy = SpacesPolicy(module(), observation, action, **options).eval()
    reports = PolicyExporter(policy, policy.signature, onnx=False).reports
    assert [(report.method, report.error) for report in reports] == [("script", None)]


@pytest.mark.slow
def test_aot_adds_native_code(tmp_path: Path) -> None:
    manifest = publish_policy(nn.Linear(4, 3), VECTOR, spaces.Discrete(3), tmp_path, aot=True)
    assert manifest.program("aot") is not None
    assert (
        load_policy(tmp_path / f"v{manifest.version:06d}", "aot", trust_native=True, sandbox=None).engine.kind == "aot"
    )


def test_a_policy_under_the_contract_is_published_as_it_is(tmp_path: Path) -> None:
    policy = make_policy("vector, discrete")
    manifest = publish_policy(policy, VECTOR, spaces.Discrete(3), tmp_path)
    assert manifest.signature == policy.signature
    with pytest.raises(ConfigurationError, match="the policy acts in"):
        publish_policy(policy, VECTOR, spaces.Discrete(4), tmp_path)


def test_results_that_define_no_action_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="name the 2 items that the module returns with outputs"):
        publish_policy(nn.LSTM(4, 3), VECTOR, spaces.Discrete(3), tmp_path)
    with pytest.raises(ConfigurationError, match="expected outputs from"):
        publish_policy(nn.Linear(4, 3), VECTOR, spaces.Discrete(3), tmp_path, outputs=("pi",))
    with pytest.raises(ExportError, match="called with inputs of its spaces, raises RuntimeError"):
        publish_policy(nn.Linear(5, 3), VECTOR, spaces.Discrete(3), tmp_path)


def test_the_programs_of_a_version_are_named(tmp_path: Path) -> None:
    manifest = publish_policy(nn.Linear(4, 3), VECTOR, spaces.Discrete(3), tmp_path, programs=("onnx",))
    assert [program.kind for program in manifest.programs] == ["onnx"]
    for programs, message in ((("onxx",), "found 'onxx'"), (("importable",), "leave importable out")):
        with pytest.raises(ConfigurationError, match=message):
            publish_policy(nn.Linear(4, 3), VECTOR, spaces.Discrete(3), tmp_path, programs=programs)


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="leave out program: expected env_id, programs"):
        publish_policy(nn.Linear(4, 3), VECTOR, spaces.Discrete(3), tmp_path, program="onnx")  # type: ignore[call-arg]


class Coarse(nn.Module):
    """Weights that numpy or a weights file cannot hold as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3).bfloat16()
        self.waves = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.view_as_real(x * self.waves)[..., 0].bfloat16()).float()


def test_weights_of_bfloat16_and_complex_ones_reach_an_agent(tmp_path: Path) -> None:
    module = Coarse()
    publish_policy(module, VECTOR, spaces.Discrete(3), tmp_path, onnx=False)
    store = LocalPolicyStore(tmp_path)
    assert np.isin(act(store, VECTOR), range(3)).all()
    weights = decode_weights(store.open(0).read(WEIGHTS_FILE))
    found = {name: (array.dtype.name, array.shape) for name, array in weights.items() if name.startswith("module.")}
    assert found == {
        "module.head.bias": ("bfloat16", (3,)),
        "module.head.weight": ("bfloat16", (3, 4)),
        "module.waves": ("float32", (4, 2)),
    }
