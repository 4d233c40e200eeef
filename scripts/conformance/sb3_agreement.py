"""``python scripts/conformance/sb3_agreement.py``: Stable-Baselines3's ``predict`` and published versions."""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.publishing.publish_once import publish_once
from learner.sb3.adapter import from_sb3
from scripts.conformance.sb3_models import ModelCase, choices, model_cases, sample_observations
from shared.engines.engine import EngineKind
from shared.engines.load import PROGRAM_OF, check_support
from shared.errors import ExportError, ProgramUnsupported
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore, PolicyStore

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
        for found in compare(case, options.observations):
            disagreeing += found.disagreeing
            counts = (f"{count:,}" for count in (found.observations, found.different_actions, found.disagreeing))
            table.add_row(found.case, found.engine, found.method, *counts, f"{found.largest_difference:.1e}")
    Console(width=150).print(table)
    print(f"{disagreeing} observations disagree; {time.monotonic() - began_s:.0f} s")
    return 0 if disagreeing == 0 else 1


def compare(case: ModelCase, observations: int, seed: int = 0) -> Iterator[Agreement]:
    """Publish the model of ``case`` and compare an agent on every engine with ``predict``."""
    model = case.make(seed)
    policy = from_sb3(model)
    with tempfile.TemporaryDirectory() as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        publish_once(policy, policy.signature, store)
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
    with Agent(
        store, AgentOptions(num_envs=_ENVIRONMENTS, engine=engine, deterministic=True, synchronous=True)
    ) as agent:
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
    if acting.engine.kind != engine:
        raise ExportError(
            f"{case.name}: expected engine {engine}, found {acting.engine_name}; {acting.manifest.export}"
        )
    methods = [
        report.method for report in acting.manifest.export if report.taken and report.method in ("script", "trace")
    ]
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
