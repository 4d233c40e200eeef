"""``python scripts/conformance/sb3_agreement.py``: Stable-Baselines3's ``predict`` and published versions.

Models of every algorithm and policy class have perturbed weights, so that actions differ between observations.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.publishing.policy_publisher import publish_once
from learner.sb3.adapter import from_sb3
from shared.engines.engine import EngineKind
from shared.engines.load import PROGRAM_OF, check_support
from shared.errors import ExportError, ProgramUnsupported
from shared.policy.manifest import ProgramKind
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore, PolicyStore

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)
NESTED = spaces.Dict(
    {
        "speed": spaces.Box(-1, 1, (2, 2), np.float32),
        "camera": IMAGE,
        "gear": spaces.Discrete(4),
        "contact": spaces.MultiBinary(3),
        "buttons": spaces.MultiDiscrete([2, 3]),
    }
)
# For a Dict with MultiDiscrete, sb3-contrib passes a numpy integer to nn.LSTM, which torch refuses.
NESTED_FOR_LSTM = spaces.Dict({key: space for key, space in NESTED.items() if key != "buttons"})
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32), dtype=np.float32)

_OBSERVATIONS: dict[str, spaces.Space[Any]] = {"Mlp": VECTOR, "Cnn": IMAGE, "MultiInput": NESTED}
_LARGEST_CHANGE = 0.1


class AnySpaces(gymnasium.Env[Any, Any]):
    """An environment of any spaces: random observations, zero rewards, episodes of ten steps."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space = observation
        self.action_space = action
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._step = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self._step += 1
        return self.observation_space.sample(), 0.0, False, self._step >= 10, {}

    def action_masks(self) -> np.ndarray:
        """Return the mask that MaskablePPO requests; every action is legal."""
        return np.ones(sum(choices(self.action_space)), np.bool_)


@dataclass(frozen=True)
class ModelCase:
    algorithm: type[BaseAlgorithm]
    policy: str
    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    settings: dict[str, Any] = field(default_factory=dict)
    normalized: tuple[str, ...] | bool = False
    """True: VecNormalize normalizes the entire observation; names: these keys of it."""

    @property
    def name(self) -> str:
        extras = ", VecNormalize" * bool(self.normalized) + ", gSDE" * bool(self.settings.get("use_sde"))
        return f"{self.algorithm.__name__} {self.policy}, {self.action.__class__.__name__}{extras}"

    def make(self, seed: int = 0) -> BaseAlgorithm:
        """Make a model with perturbed weights, so that actions differ between observations."""
        np.random.seed(seed)
        env: Any = DummyVecEnv([lambda: AnySpaces(self.observation, self.action)])
        if self.normalized:
            keys = list(self.normalized) if isinstance(self.normalized, tuple) else None
            env = VecNormalize(env, norm_obs_keys=keys)
            generator = np.random.default_rng(seed)
            for moments in env.obs_rms.values() if isinstance(env.obs_rms, dict) else (env.obs_rms,):
                moments.update(3 + 2 * generator.standard_normal((100, *moments.mean.shape)))
        make: Callable[..., BaseAlgorithm] = self.algorithm
        model = make(self.policy, env, seed=seed, device="cpu", **self.settings)
        stir(model.policy, seed)
        return model


def model_cases() -> Iterator[ModelCase]:
    """Yield every algorithm with every policy class; then normalized observations, other actions and networks."""
    small = {"buffer_size": 16}
    for algorithm in (PPO, A2C, DQN, SAC, TD3, MaskablePPO, RecurrentPPO):
        action = DISCRETE if algorithm in (PPO, DQN, MaskablePPO) else BOX
        suffix = "Lstm" if algorithm is RecurrentPPO else ""
        for name, observation in _OBSERVATIONS.items():
            fitting = NESTED_FOR_LSTM if suffix and observation is NESTED else observation
            settings = small if algorithm in (DQN, SAC, TD3) else {}
            yield ModelCase(algorithm, f"{name}{suffix}Policy", fitting, action, settings)
    yield ModelCase(PPO, "MlpPolicy", VECTOR, BOX, normalized=True)
    yield ModelCase(SAC, "MlpPolicy", VECTOR, BOX, small, normalized=True)
    yield ModelCase(PPO, "MultiInputPolicy", NESTED, spaces.MultiDiscrete([3, 2]), normalized=("speed",))
    yield ModelCase(A2C, "MlpPolicy", VECTOR, spaces.MultiBinary(3))
    yield ModelCase(PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True})
    yield ModelCase(SAC, "MlpPolicy", VECTOR, BOX, {"use_sde": True, **small})
    yield ModelCase(MaskablePPO, "MlpPolicy", VECTOR, spaces.MultiDiscrete([3, 2]))
    shared = {"shared_lstm": True, "enable_critic_lstm": False, "n_lstm_layers": 2}
    yield ModelCase(RecurrentPPO, "MlpLstmPolicy", VECTOR, DISCRETE, {"policy_kwargs": shared})


def choices(space: spaces.Space[Any]) -> list[int]:
    """Return the number of actions of each choice of a discrete space."""
    match space:
        case spaces.Discrete():
            return [int(space.n)]
        case spaces.MultiDiscrete():
            return [int(n) for n in space.nvec]
    return []


def stir(policy: torch.nn.Module, seed: int) -> None:
    """Change every parameter in place, by less in layers with more inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            scale = min(_LARGEST_CHANGE, parameter[0].numel() ** -0.5)
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def sample_observations(space: spaces.Space[Any], n: int, generator: np.random.Generator) -> Any:
    """Return ``n`` observations, batch first. Images differ in brightness: uniform noise looks alike to a network."""
    if isinstance(space, spaces.Dict):
        return {key: sample_observations(child, n, generator) for key, child in space.items()}
    shape = (n, *(space.shape or ()))
    match space:
        case spaces.Discrete():
            return generator.integers(0, space.n, shape)
        case spaces.MultiDiscrete():
            return generator.integers(0, space.nvec, shape)
        case spaces.MultiBinary():
            return generator.integers(0, 2, shape, np.int8)
        case spaces.Box() if space.dtype == np.uint8:
            brightest = generator.integers(1, 257, (n, 1, 1, shape[-1]))
            return generator.integers(0, brightest, shape).astype(np.uint8)
    return (2 * generator.standard_normal(shape)).astype(np.float32)


COMMAND = "python scripts/conformance/sb3_agreement.py"

ATOL = RTOL = 1e-5
ENGINES: tuple[EngineKind, ...] = ("torchscript", "onnx", "llvm")

_ENVIRONMENTS = 50


@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    """Compare Stable-Baselines3's predict with published versions, for every algorithm and policy class.

    Exit code 0: the actions agree for all observations. 1: they do not.
    """

    observations: int = 1000
    """Observations for each case, rounded up to whole batches of 50."""
    programs: tuple[ProgramKind, ...] = ()
    """Programs to publish; see the flag of rl-hotswap export."""
    only: str = ""
    """Prefix of the names of cases, such as "SAC" or "PPO CnnPolicy"."""


@dataclass(frozen=True)
class Agreement:
    """One model on one engine. ``disagreeing`` counts observations whose actions differ beyond the tolerance."""

    case: str
    engine: str
    method: str
    observations: int
    disagreeing: int
    largest_difference: float
    different_actions: int
    """Number of different actions of predict; few of them prove little."""


def main(options: AgreementOptions) -> int:
    set_up_logging("sb3_agreement", None, terminal_level="WARNING")
    began_s = time.monotonic()
    title = f"predict and published versions (tolerance {ATOL:g} + {RTOL:g} * |x|)"
    table = Table(title=title, title_justify="left")
    columns = "model, engine, method, observations, different actions, disagreeing, largest difference"
    for column in columns.split(", "):
        table.add_column(column, overflow="fold")
    disagreeing = 0
    for case in model_cases():
        if not case.name.startswith(options.only):
            continue
        for found in compare(case, options.observations, programs=options.programs):
            disagreeing += found.disagreeing
            counts = (f"{count:,}" for count in (found.observations, found.different_actions, found.disagreeing))
            table.add_row(found.case, found.engine, found.method, *counts, f"{found.largest_difference:.1e}")
    Console(width=150).print(table)
    print(f"{disagreeing} observations disagree; {time.monotonic() - began_s:.0f} s")
    return 0 if disagreeing == 0 else 1


def compare(
    case: ModelCase, observations: int, seed: int = 0, programs: tuple[ProgramKind, ...] = ()
) -> Iterator[Agreement]:
    """Publish the model of ``case`` and compare an agent on every engine with ``predict``."""
    model = case.make(seed)
    policy = from_sb3(model)
    with tempfile.TemporaryDirectory() as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        publish_once(policy, policy.signature, store, programs=programs)
        for engine in filter(partial(_runs, store), ENGINES):
            yield _compare_engine(case, model, store, engine=engine, observations=observations, seed=seed)


def _runs(store: LocalPolicyStore, engine: EngineKind) -> bool:
    """Return True when ``engine`` supports the policy; LLVM, for example, runs no images."""
    files = store.open(0)
    program = files.manifest.program(PROGRAM_OF[engine])
    try:
        if program is not None:
            check_support(engine, program, files.read)
    except ProgramUnsupported:
        return False
    return program is not None


def _compare_engine(
    case: ModelCase, model: Any, store: PolicyStore, *, engine: EngineKind, observations: int, seed: int
) -> Agreement:
    generator = np.random.default_rng(seed)
    vec_normalize = model.get_vec_normalize_env()
    expected, found = [], []
    state: Any = None
    starts = np.ones(_ENVIRONMENTS, np.bool_)
    options = AgentOptions(num_envs=_ENVIRONMENTS, engine=engine, deterministic=True, synchronous=True, sandbox=None)
    with Agent(store, options) as agent:
        agent.reset()
        masked = agent.policy.signature.input_position("action_mask") is not None
        for _ in range(-(-observations // _ENVIRONMENTS)):
            observation = sample_observations(case.observation, _ENVIRONMENTS, generator)
            read = observation if vec_normalize is None else vec_normalize.normalize_obs(observation)
            mask = _mask(case, generator) if masked else None
            extra = {} if mask is None else {"action_masks": mask}
            action, state = model.predict(read, state, starts, deterministic=True, **extra)
            expected.append(action)
            found.append(agent.act(observation, mask))
            starts = generator.random(_ENVIRONMENTS) < 0.1
            agent.reset(starts)
        acting = agent.policy
    reports = acting.manifest.export
    if acting.engine.kind != engine:
        raise ExportError(f"{case.name}: expected engine {engine}, found {acting.engine_name}; {reports}")
    methods = [report.method for report in reports if report.taken and report.method in ("script", "trace")]
    method = methods[0] if engine == "torchscript" and methods else engine
    return _agreement(case.name, engine, method, np.concatenate(expected), np.concatenate(found))


def _agreement(case: str, engine: str, method: str, expected: np.ndarray, found: np.ndarray) -> Agreement:
    rows = len(expected)
    expected, found = (array.reshape(rows, -1).astype(np.float64) for array in (expected, found))
    difference = np.abs(expected - found)
    disagrees = (difference > ATOL + RTOL * np.abs(expected)).any(axis=1)
    different = len(np.unique(expected.round(4), axis=0))
    return Agreement(case, engine, method, rows, int(disagrees.sum()), float(difference.max()), different)


def _mask(case: ModelCase, generator: np.random.Generator) -> np.ndarray:
    """Return a mask with half of the actions, and always the first of each choice."""
    sizes = choices(case.action)
    mask = generator.random((_ENVIRONMENTS, sum(sizes))) < 0.5
    mask[:, np.cumsum([0, *sizes[:-1]])] = True
    return np.asarray(mask)


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, AgreementOptions, main))
