"""Comparison of a published version, on every engine, with the actions that the library of the policy chooses."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces

from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.publishing.policy_publisher import publish_once
from shared.engines.engine import EngineKind
from shared.engines.load import PROGRAM_OF, check_support
from shared.errors import ExportError, ProgramUnsupported
from shared.policy.manifest import ProgramKind
from shared.store.policy_store import LocalPolicyStore, PolicyStore

ATOL = RTOL = 1e-5
ENGINES: tuple[EngineKind, ...] = ("torchscript", "onnx", "llvm")
ENVIRONMENTS = 50

_LARGEST_CHANGE = 0.1

Predict = Callable[[Any, np.ndarray | None, np.ndarray], np.ndarray]
"""Function from observations, an action mask and the starts of episodes to the library's deterministic actions."""


@dataclass(frozen=True)
class Subject:
    """An imported policy. ``predictor`` makes a function with a memory of its own."""

    policy: Any
    predictor: Callable[[], Predict]


class Case(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def observation(self) -> spaces.Space[Any]: ...

    @property
    def action(self) -> spaces.Space[Any]: ...

    def subject(self, seed: int) -> Subject:
        """Make the policy with perturbed weights, and import it."""


@dataclass(frozen=True)
class Agreement:
    """One policy on one engine. ``disagreeing`` counts observations whose actions differ beyond the tolerance."""

    case: str
    engine: str
    method: str
    observations: int
    disagreeing: int
    largest_difference: float
    different_actions: int
    """Number of different actions of the library; few of them prove little."""


def compare(
    case: Case, observations: int, seed: int = 0, programs: tuple[ProgramKind, ...] = ()
) -> Iterator[Agreement]:
    """Publish the policy of ``case`` and compare an agent on every engine with the library."""
    subject = case.subject(seed)
    with tempfile.TemporaryDirectory() as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        publish_once(subject.policy, subject.policy.signature, store, programs=programs)
        for engine in filter(partial(_runs, store), ENGINES):
            yield _compare_engine(case, subject, store, engine=engine, observations=observations, seed=seed)


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
    case: Case, subject: Subject, store: PolicyStore, *, engine: EngineKind, observations: int, seed: int
) -> Agreement:
    generator = np.random.default_rng(seed)
    predict = subject.predictor()
    expected, found = [], []
    starts = np.ones(ENVIRONMENTS, np.bool_)
    options = AgentOptions(num_envs=ENVIRONMENTS, engine=engine, deterministic=True, synchronous=True, sandbox=None)
    with Agent(store, options) as agent:
        agent.reset()
        masked = agent.policy.signature.input_position("action_mask") is not None
        for _ in range(-(-observations // ENVIRONMENTS)):
            observation = sample_observations(case.observation, ENVIRONMENTS, generator)
            mask = sample_masks(case.action, generator) if masked else None
            expected.append(predict(observation, mask, starts))
            found.append(agent.act(observation, mask))
            starts = generator.random(ENVIRONMENTS) < 0.1
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


def choices(space: spaces.Space[Any]) -> list[int]:
    """Return the number of actions of each choice of a discrete space."""
    match space:
        case spaces.Discrete():
            return [int(space.n)]
        case spaces.MultiDiscrete():
            return [int(n) for n in space.nvec]
    return []


def sample_masks(space: spaces.Space[Any], generator: np.random.Generator) -> np.ndarray:
    """Return masks with half of the actions, and always the first of each choice."""
    sizes = choices(space)
    mask = generator.random((ENVIRONMENTS, sum(sizes))) < 0.5
    mask[:, np.cumsum([0, *sizes[:-1]])] = True
    return np.asarray(mask)


def stir(policy: torch.nn.Module, seed: int) -> None:
    """Change every parameter in place, by less in layers with more inputs, so that actions differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            scale = min(_LARGEST_CHANGE, parameter[0].numel() ** -0.5)
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def made(make: Callable[[], Any], seed: int) -> Any:
    """Return the module of ``make`` in eval mode, with weights of ``seed`` so large that actions differ."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = make().eval()
    stir(module, seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return module


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
