"""``benchmark.py acting``: steps per second beside the environment alone and beside other libraries.

Every loop uses one thread and untrained networks of the same sizes, so that episodes are equally short. Rollouts of
many environments are recorded but not sent.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from scripts.benchmarks.acting.acting_loops import (
    DESCRIPTION,
    ENV_ID,
    SAME_PROGRAM_DESCRIPTION,
    RecordedRollouts,
    agent_loop,
    bare_same_program,
    bare_torchscript,
    cleanrl_rollouts,
    environment_alone,
    environments_alone,
    publish_policy,
    sb3_collect_rollouts,
    sb3_predict_and_step,
    torchrl_collector,
)
from scripts.benchmarks.common.prepared_versions import TEMPORARY_PREFIX
from scripts.benchmarks.common.result import Line, Result, is_installed, number, save_plot
from scripts.benchmarks.common.rounds import BenchmarkSettings, Piece, interleave, ratios, steps_per_s
from shared.store.policy_store import LocalPolicyStore

_TURN_S = 0.4
_LENGTH = 128

_ALONE = "environment alone"
_OURS = "rl-hotswap"
_BARE = "bare TorchScript loop"
_MULTINOMIAL = "bare TorchScript loop, softmax and multinomial"
_BY_HAND = "bare TorchScript loop, layers written out by hand"
_SAME = "bare loop around the same program"
_SB3 = "Stable-Baselines3"
_CLEANRL = "CleanRL's loop"
_TORCHRL = "TorchRL's collector"

_NEEDS = {_SB3: "stable_baselines3", _TORCHRL: "torchrl"}
_PLOTTED = (_ALONE, _OURS, _BARE, _SB3, _CLEANRL, _TORCHRL)

Contender = tuple[str, int]
"""Name of a loop and number of environments."""
Speeds = Mapping[Contender, Sequence[float]]
Makers = Mapping[Contender, Callable[[], Piece]]


def measure_acting(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Return the results of one environment, of 64 and of 1,024."""
    torch.set_num_threads(1)
    how = f"{settings.rounds} interleaved rounds of {_TURN_S:g} s; one thread; policy and value networks of 64x64"
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory, ExitStack() as resources:
        store = publish_policy(Path(directory))
        workers = {count: RecordedRollouts(store, count, _LENGTH, resources) for count in (64, 1024)}
        one = _measure(_in_one(store, resources), settings.rounds, console)
        many = _measure(_in_many(workers), settings.rounds, console)
    if settings.plots is not None:
        _plot({**one, **many}, settings.plots / "acting.png")
    shares = {count: worker.real_share for count, worker in workers.items()}
    return _results_of_one(one, how) + _results_of_many(many, shares, f"{how}; rollouts of {_LENGTH} steps")


def _in_one(store: LocalPolicyStore, resources: ExitStack) -> Makers:
    return {
        (_ALONE, 1): environment_alone,
        (_OURS, 1): partial(agent_loop, store, resources),
        (_BARE, 1): bare_torchscript,
        (_MULTINOMIAL, 1): partial(bare_torchscript, "multinomial"),
        (_BY_HAND, 1): partial(bare_torchscript, "by hand"),
        (_SAME, 1): partial(bare_same_program, store),
        (_SB3, 1): sb3_predict_and_step,
        (_CLEANRL, 1): partial(cleanrl_rollouts, 1, _LENGTH),
        (_TORCHRL, 1): partial(torchrl_collector, 1, _LENGTH),
    }


def _in_many(workers: Mapping[int, RecordedRollouts]) -> Makers:
    return {
        (_ALONE, 64): partial(environments_alone, 64),
        (_OURS, 64): lambda: workers[64],
        (_SB3, 64): partial(sb3_collect_rollouts, 64, _LENGTH),
        (_CLEANRL, 64): partial(cleanrl_rollouts, 64, _LENGTH),
        (_TORCHRL, 64): partial(torchrl_collector, 64, _LENGTH),
        (_ALONE, 1024): partial(environments_alone, 1024),
        (_OURS, 1024): lambda: workers[1024],
    }


def _measure(makers: Makers, rounds: int, console: Console) -> Speeds:
    turns = {}
    for (name, count), make in makers.items():
        if name not in _NEEDS or is_installed(_NEEDS[name], f"{name} skipped", console):
            turns[name, count] = partial(steps_per_s, make(), _TURN_S)
    speeds = interleave(turns, rounds, warm_up=1)
    for (name, count), values in speeds.items():
        console.print(f"{_poles(count)}, {name}: {number(float(np.median(values)))} steps/s", highlight=False)
    return speeds


def _results_of_one(speeds: Speeds, how: str) -> list[Result]:
    def over(name: str) -> list[float]:
        return ratios(speeds[_OURS, 1], speeds[name, 1])

    what = f"{_poles(1)}, Agent over"
    results = [
        Result.of(f"{what} a {_BARE}", over(_BARE), "x", f"{how}; {DESCRIPTION}", at_least=2.5),
        Result.of(f"{what} a {_SAME}", over(_SAME), "x", f"{how}; {SAME_PROGRAM_DESCRIPTION}"),
    ]
    if (_SB3, 1) in speeds:
        sb3 = f"{how}; PPO.predict and env.step without a vector environment"
        results.append(Result.of(f"{what} {_SB3}'s predict and step", over(_SB3), "x", sb3, at_least=12))
    return results + _speeds(speeds, how)


def _results_of_many(speeds: Speeds, real_shares: Mapping[int, float], how: str) -> list[Result]:
    def over(count: int, name: str, named_count: int, share: float = 1.0) -> list[float]:
        return [share * ratio for ratio in ratios(speeds[_OURS, count], speeds[name, named_count])]

    what = {count: f"{_poles(count)}, recorded rollouts over" for count in real_shares}
    alone = f"{how}; Gymnasium's vector entry point with constant actions; all steps of all environments count"
    results = [
        Result.of(f"{what[64]} the {_ALONE}", over(64, _ALONE, 64), "x", alone, at_least=0.5),
        Result.of(f"{what[1024]} the {_ALONE}", over(1024, _ALONE, 1024), "x", alone),
    ]
    if (_SB3, 64) in speeds:
        sb3 = f"{how} (n_steps of PPO too); steps that only reset an environment do not count"
        for count, at_least in ((64, 12.0), (1024, 50.0)):
            values = over(count, _SB3, 64, real_shares[count])
            results.append(Result.of(f"{what[count]} {_SB3}'s with 64", values, "x", sb3, at_least=at_least))
    return results + _speeds(speeds, how)


def _speeds(speeds: Speeds, how: str) -> list[Result]:
    return [Result.of(f"{_poles(count)}: {name}", values, "steps/s", how) for (name, count), values in speeds.items()]


def _poles(count: int) -> str:
    return "one CartPole" if count == 1 else f"{count:,} CartPoles"


def _plot(speeds: Speeds, path: Path) -> None:
    lines = []
    for name in _PLOTTED:
        if found := sorted((count, values) for (loop, count), values in speeds.items() if loop == name):
            counts, values = zip(*found, strict=True)
            low, high = [min(one) for one in values], [max(one) for one in values]
            lines.append(Line(name, counts, [float(np.median(one)) for one in values], low, high))
    title = f"Acting in {ENV_ID}, networks of 64x64, one thread"
    save_plot(path, lines, title=title, x_label="environments in one process", y_label="environment steps per second")
