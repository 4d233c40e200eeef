"""Whether adoptions can be felt: the times of a CartPole's steps while versions are published, and while none are."""

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import gymnasium
import msgspec
import numpy as np

from actor.agent import Agent
from scripts.benchmarks.helper_process import HelperProcess, serve
from scripts.benchmarks.publishing_process import start_publisher
from scripts.benchmarks.row import Row
from scripts.benchmarks.shelf import ENV_ID, make_shelf
from shared.log import set_up_logging
from shared.policy_store import LocalPolicyStore

ADOPTIONS_PER_S = 10.0
STEPS_BETWEEN_ADOPTIONS = 16
"""As the rollout worker adopts: a training's rollouts are this long."""

_VERSIONS = 16
_SMALL_CHANGE = 1e-3  # all of them act alike, so that episodes are as long with adoptions as without
_SETTLE_S = 0.2
_WARM_UP_ADOPTIONS_PER_S = 50.0
_WARM_UP_AT_MOST_S = 60.0
_MOST_STEPS = 2_000_000
_PARTS = 5  # of the run, each with its own median of none over none
_PERCENTILES = {"p50": (50.0, 1.02), "p99": (99.0, 1.05), "p99.9": (99.9, 1.10)}


class Block(NamedTuple):
    """A stretch of acting: microseconds of a step at each percentile, steps a second, adoptions."""

    step_us: dict[str, float]
    steps_per_s: float
    adoptions: int


class Stepper:
    """Acts in one CartPole with an agent that checks everything, and adopts where a rollout worker would."""

    def __init__(self, store: Path) -> None:
        self._env = gymnasium.make(ENV_ID)
        self._agent = Agent(LocalPolicyStore(store), num_envs=None, name="stepper")
        self._times_ns = np.zeros(_MOST_STEPS, np.int64)
        self._observation, _ = self._env.reset(seed=0)
        self._begins = True

    def is_scouted(self) -> bool:
        """Act for a moment; whether the agent has a scout by now, as one that adopts so often has before long."""
        self._act_for(_SETTLE_S)
        return self._agent.is_scouted

    def block(self, seconds: float) -> Block:
        """Act that long, after a moment that is not measured. A step: adopt where that is due, act, step."""
        self._act_for(_SETTLE_S)
        adoptions = self._agent.adoptions
        began_s = time.perf_counter()
        steps = self._act_for(seconds)
        steps_per_s = steps / (time.perf_counter() - began_s)
        values = np.percentile(self._times_ns[:steps], [percentile for percentile, _ in _PERCENTILES.values()]) / 1e3
        step_us = dict(zip(_PERCENTILES, map(float, values), strict=True))
        return Block(step_us, steps_per_s, self._agent.adoptions - adoptions)

    def _act_for(self, seconds: float) -> int:
        """Write each step's time; returns the number of steps."""
        agent, env, times_ns, clock = self._agent, self._env, self._times_ns, time.perf_counter_ns
        observation, begins, n = self._observation, self._begins, 0
        deadline_ns = clock() + int(seconds * 1e9)
        while n + STEPS_BETWEEN_ADOPTIONS <= _MOST_STEPS and clock() < deadline_ns:
            for k in range(STEPS_BETWEEN_ADOPTIONS):
                began_ns = clock()
                if begins:
                    agent.reset()
                elif k == 0:
                    agent.adopt()
                observation, _, terminated, truncated, _ = env.step(agent.act(observation))
                times_ns[n] = clock() - began_ns
                n += 1
                begins = terminated or truncated
                if begins:
                    observation, _ = env.reset()
        self._observation, self._begins = observation, begins
        return n


def run_stepper(connection: Connection, store: Path, logs: Path) -> None:
    """What the acting process does. It logs as an actor does: a line for each adoption, into a file."""
    set_up_logging("actor-0", logs, terminal_level="ERROR")
    serve(connection, Stepper(store))


def measure_step_times(rounds: int, block_s: float) -> list[Row]:
    """Blocks without, with and without adoptions in turn: the percentiles' ratios, and the steps that were lost."""
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        shelf, store, logs = (Path(directory) / name for name in ("shelf", "store", "logs"))
        make_shelf(shelf, versions=_VERSIONS, change=_SMALL_CHANGE)
        with start_publisher(shelf, store) as publisher, HelperProcess(run_stepper, store, logs) as stepper:
            publisher.call("publish")
            _warm_up(publisher, stepper)
            blocks = [_round(publisher, stepper, block_s) for _ in range(rounds)]
    return _rows(blocks, block_s)


def _warm_up(publisher: HelperProcess, stepper: HelperProcess) -> None:
    """Adopt until that costs what it costs an actor that goes on doing so."""
    publisher.call("begin", _WARM_UP_ADOPTIONS_PER_S)
    deadline_s = time.monotonic() + _WARM_UP_AT_MOST_S
    while not stepper.call("is_scouted") and time.monotonic() < deadline_s:
        pass
    publisher.call("end")


class _Round(NamedTuple):
    before: Block
    adopting: Block
    after: Block


def _round(publisher: HelperProcess, stepper: HelperProcess, block_s: float) -> _Round:
    before = stepper.call("block", block_s)
    publisher.call("begin", ADOPTIONS_PER_S)
    adopting = stepper.call("block", block_s)
    publisher.call("end")
    return _Round(before, adopting, stepper.call("block", block_s))


def _rows(rounds: Sequence[_Round], block_s: float) -> list[Row]:
    how = (
        f"one CartPole-v1, MLP 64x64, every check on; {len(rounds)} rounds of none, {ADOPTIONS_PER_S:g} a second, "
        f"none, {block_s:g} s each, in a process of its own beside the publisher's"
    )
    rows = []
    for name, (_, target) in _PERCENTILES.items():
        nones = _none_over_none(rounds, name)
        with_adoptions = [
            one.adopting.step_us[name] * 2 / (one.before.step_us[name] + one.after.step_us[name]) for one in rounds
        ]
        row = Row.of(f"step time with 10 adoptions a second over none, {name}", with_adoptions, "", how, at_most=target)
        rows.append(within_spread(row, nones))
        rows.append(Row.of(f"step time with none over none, {name}", nones, "", how))
    rates = [one.adopting.steps_per_s * 2 / (one.before.steps_per_s + one.after.steps_per_s) for one in rounds]
    lost = [100 * (1 - rate) for rate in rates]
    rows.append(Row.of("steps lost to 10 adoptions a second", lost, "%", how, at_most=1.0))
    lost_to_none = [100 * (1 - one.after.steps_per_s / one.before.steps_per_s) for one in rounds]
    rows.append(Row.of("steps lost to none", lost_to_none, "%", how))
    rows.append(Row.of("step time with none, p50", [one.before.step_us["p50"] for one in rounds], "us", how))
    rates = [one.adopting.adoptions / block_s for one in rounds]
    rows.append(Row.of("adoptions in a second of these", rates, "1/s", how))
    return rows


def _none_over_none(rounds: Sequence[_Round], name: str) -> list[float]:
    """Each block of none over the mean of the blocks of none around it, as blocks with adoptions are compared."""
    blocks = [block.step_us[name] for one in rounds for block in (one.before, one.after)]
    if len(blocks) == 2:
        return [blocks[1] / blocks[0]]
    return [2 * here / (before + after) for before, here, after in zip(blocks, blocks[1:], blocks[2:], strict=False)]


def within_spread(row: Row, nones: Sequence[float]) -> Row:
    """``row`` counts as reached where its median lies between the least and the most median of none over none.

    Medians of parts of the run are compared with: single ratios lie further apart than a median of many ever does.
    """
    medians = [float(np.median(part)) for part in np.array_split(nones, min(_PARTS, len(nones)))]
    low, high = min(medians), max(medians)
    told = f"median {row.value:.3f}; none over none in {len(medians)} parts of the run: medians {low:.3f} to {high:.3f}"
    reached = row.reached or low <= row.value <= high
    return msgspec.structs.replace(row, reached=reached, how=f"{row.how}; {told}")
