"""What ``scripts/benchmark.py reload``, ``publish`` and ``scale`` measure, in small: figures are there, and finite."""

import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from rl_hotswap.launcher.child_process import CHECKOUT, child_environment
from scripts.benchmarks.action_integrity import derive, weights_of
from scripts.benchmarks.growth import Budget, Growth
from scripts.benchmarks.helper_process import HelperProcess
from scripts.benchmarks.many_versions import add_versions
from scripts.benchmarks.prepared_versions import prepare_versions, read_prepared_versions
from scripts.benchmarks.result import Result
from scripts.benchmarks.step_timer import STEPS_BETWEEN_ADOPTIONS, Block, StepTimer
from scripts.benchmarks.step_times import Round, adopting_over_none, none_over_none, within_spread
from shared.errors import HotswapError
from shared.policy.noise import NoiseStream
from shared.process.command_line import INTERRUPTED
from shared.rollouts.rollout import RolloutLayout
from shared.store.policy_store import LocalPolicyStore
from tests.support.waiting import until


def check(rows: Sequence[Result]) -> None:
    assert rows
    assert all(math.isfinite(value) for row in rows for value in (row.value, row.min, row.max))
    assert len({row.row for row in rows}) == len(rows)
    assert all(row.how for row in rows)


def test_every_made_up_action_is_found_out(tmp_path: Path) -> None:
    """Derived again from their digest, actions are right; under another digest they are not, nor is a changed one."""
    prepare_versions(tmp_path, versions=2, change=0.5, onnx_alone=True)
    versions = read_prepared_versions(tmp_path)
    signature = versions[0].manifest.signature
    weights = {version.manifest.digest: weights_of(version) for version in versions}
    first, second = (version.manifest.digest for version in versions)
    with Agent(LocalPolicyStore(tmp_path), AgentOptions(num_envs=4, synchronous=True)) as agent:
        noise = {agent.noise_seed: NoiseStream(signature.action, 4, agent.noise_seed)}
        options = RolloutOptions(run_id="r", actor_id="a", seed=0)
        worker = RolloutWorker(agent, make_environments("CartPole-v1", 4), RolloutLayout(signature, 32), options)
        rollout = worker.collect()
    assert rollout is not None
    assert rollout.header.digest == second
    assert derive([rollout], weights, noise)[:2] == (128, 0)

    assert derive([rollout], {second: weights[first]}, noise).wrong > 100
    assert derive([rollout], {first: weights[first]}, noise).wrong == 128
    rollout.action[3, 2] ^= 1
    assert derive([rollout], weights, noise).wrong == 1


def test_many_versions_are_versions(tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path, fsync=False)
    prepare_versions(tmp_path, versions=1, change=0.0, onnx_alone=True)
    add_versions(store, range(1, 30))
    assert store.versions() == list(range(30))
    files = store.open(17)
    assert files.manifest.version == 17
    assert files.manifest.digest == store.open(0).manifest.digest
    assert all(files.read(name) for name in files.manifest.files)
    assert read_prepared_versions(tmp_path)[3].publish(store).version == 30


def test_growth_is_rows_and_lines() -> None:
    growth = Growth("Title", "actors", "how")
    growth.add("last", 1, [3.0, 1.0, 2.0])
    growth.add("last", 64, [4.0])
    assert [(row.row, row.value) for row in growth.rows()] == [("last, 1 actors", 2.0), ("last, 64 actors", 4.0)]
    (line,) = growth.lines()
    assert (line.x, line.y, line.low, line.high) == ([1, 64], [2.0, 4.0], [1.0, 4.0], [3.0, 4.0])


def test_only_what_lies_among_medians_of_none_counts_as_none() -> None:
    """One wild ratio among many excuses nothing: it moves no median."""
    row = Result.of("step time", [1.2], "", "how", at_most=1.1)
    calm = [0.99, 1.0, 1.01, 0.98, 1.02] * 5
    assert within_spread(row, calm).reached is False
    assert within_spread(row, [*calm, 9.0]).reached is False
    assert within_spread(row, [0.7, 1.3] * 2 + calm).reached is False
    assert within_spread(row, [1.25] * 5 + calm).reached is True
    assert within_spread(Result.of("step time", [1.0], "", "how", at_most=1.1), [1.25]).reached is True


def test_what_there_is_no_time_for_is_left_out() -> None:
    assert Budget(1e6).lack(10.0) is None
    assert "are left" in (Budget(0.0).lack(10.0) or "")


def test_steps_are_told_apart_by_when_they_began(tmp_path: Path) -> None:
    prepare_versions(tmp_path, versions=1, change=0.0, onnx_alone=True)
    stepper = StepTimer(tmp_path)
    stepper.act_for(0.2)
    began_ns = stepper._began_ns[: stepper._steps]
    assert (np.diff(began_ns) > 0).all()
    assert stepper._steps % STEPS_BETWEEN_ADOPTIONS == 0
    middle_s = int(began_ns[100]) / 1e9
    first, second = stepper.blocks([int(began_ns[0]) / 1e9, middle_s, middle_s + 10.0])
    assert first.steps_per_s * (middle_s - int(began_ns[0]) / 1e9) == pytest.approx(100, abs=1)
    assert second.steps_per_s * 10.0 == pytest.approx(stepper._steps - 100, abs=1)
    assert first.step_us["p50"] <= first.step_us["p99"] <= first.step_us["p99.9"]
    assert (first.adoptions, second.adoptions) in ((1, 0), (0, 1), (0, 0))
    stepper._agent.close()


def test_each_window_is_compared_with_those_beside_it() -> None:
    """Speed that drifts does not matter, what differs between the two kinds does."""
    windows = [
        Block({}, rate * (1.0 if k % 2 == 0 else 0.9), 0) for k, rate in enumerate((100.0, 110.0, 120.0, 130.0, 140.0))
    ]
    one = Round(windows, [])
    assert adopting_over_none([one, one], lambda block: block.steps_per_s) == pytest.approx([0.9] * 4)
    assert none_over_none([one, one], lambda block: block.steps_per_s) == pytest.approx([1.0] * 2)


def fail(_connection: object) -> None:
    raise SystemExit(3)


def test_a_helper_that_ends_is_an_error_of_ours() -> None:
    with HelperProcess(fail) as helper, pytest.raises(HotswapError, match="has ended"):
        helper.receive()


@pytest.mark.slow
def test_reload_in_small() -> None:
    from scripts.benchmarks.action_integrity import measure_action_integrity
    from scripts.benchmarks.memory import measure_memory
    from scripts.benchmarks.step_times import measure_step_times
    from scripts.benchmarks.watching import measure_watching

    check(measure_step_times(rounds=1))
    torn = measure_action_integrity(1_000, Console(), budget_s=60.0)
    check(torn)
    assert torn[0].value == 0
    check(measure_memory(200, Console(), budget_s=60.0))
    check(measure_watching(versions=30, seconds=0.2, settle_s=0.1))


@pytest.mark.slow
def test_publish_in_small() -> None:
    from scripts.benchmarks.publish import measure_large, measure_small
    from scripts.benchmarks.publishing_side import measure_publishing_side

    check(measure_small(2, 2, pace_s=1e-3, actors=2))
    check(measure_large(2, hidden_sizes=(256,)))
    check(measure_publishing_side(1, block_s=0.2, publications=2))


@pytest.mark.slow
def test_scale_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.benchmarks.growth_by_actors import grow_actors
    from scripts.benchmarks.growth_by_model_size import grow_models
    from scripts.benchmarks.growth_by_versions import grow_versions

    console = Console()
    check(grow_actors((1, 2), console).rows())
    models = grow_models(((8,), (16, 16), (10**6, 10**6)), console).rows()
    check(models)
    assert len(models) == 4
    assert "left out" in capsys.readouterr().out
    check(grow_versions((2, 5), console).rows())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Neither processes nor directories, whether Ctrl-C or ``kill`` stops it."""
    command = [sys.executable, str(CHECKOUT / "scripts" / "benchmark.py"), "reload"]
    environment = child_environment() | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        # A shell has what it starts in the background ignore Ctrl-C, and so does all that this starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    ) as process:
        benchmark = psutil.Process(process.pid)
        until(lambda: process.poll() is not None or len(benchmark.children()) >= 2, 60.0)
        helpers = benchmark.children()
        process.send_signal(number)
        assert process.wait(60.0) == INTERRUPTED
    assert len(helpers) >= 2
    assert not psutil.wait_procs(helpers, timeout=10.0)[1]
    assert not list(tmp_path.glob("rl-hotswap-*"))  # torch leaves a cache there
