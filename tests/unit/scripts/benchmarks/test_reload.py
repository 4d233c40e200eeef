"""``scripts/benchmark.py reload``, ``publish`` and ``scale`` with small settings give finite results."""

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
from scripts.benchmarks.common.helper_process import HelperProcess
from scripts.benchmarks.common.prepared_versions import add_versions, prepare_versions, read_prepared_versions
from scripts.benchmarks.common.result import Result
from scripts.benchmarks.reload.action_integrity import derive, weights_of
from scripts.benchmarks.reload.windows import STEPS_BETWEEN_ADOPTIONS, StepTimer
from scripts.benchmarks.scale import Budget, Growth
from shared.errors import HotswapError
from shared.policy.noise import NoiseStream
from shared.process.command_line import INTERRUPTED
from shared.rollouts.rollout import RolloutLayout
from shared.store.policy_store import LocalPolicyStore
from tests.support.waiting import until


def check(results: Sequence[Result]) -> None:
    assert results
    assert all(math.isfinite(value) for result in results for value in (result.value, result.min, result.max))
    assert len({result.name for result in results}) == len(results)
    assert all(result.how for result in results)


def test_wrong_actions_are_counted(tmp_path: Path) -> None:
    """Recorded actions are right for their own digest, and wrong for another digest or when changed."""
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


def test_added_versions_can_be_opened(tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path, fsync=False)
    prepare_versions(tmp_path, versions=1, change=0.0, onnx_alone=True)
    add_versions(store, range(1, 30))
    assert store.versions() == list(range(30))
    files = store.open(17)
    assert files.manifest.version == 17
    assert files.manifest.digest == store.open(0).manifest.digest
    assert all(files.read(name) for name in files.manifest.files)
    assert read_prepared_versions(tmp_path)[3].publish(store).version == 30


def test_growth_gives_results_and_lines() -> None:
    growth = Growth("Title", "actors", "how")
    growth.add("last", 1, [3.0, 1.0, 2.0])
    growth.add("last", 64, [4.0])
    found = [(result.name, result.value) for result in growth.results()]
    assert found == [("last, 1 actors", 2.0), ("last, 64 actors", 4.0)]
    (line,) = growth.lines()
    assert (line.x, line.y, line.low, line.high) == ([1, 64], [2.0, 4.0], [1.0, 4.0], [3.0, 4.0])


def test_budget_omits_sizes_that_exceed_it() -> None:
    assert Budget(1e6).lack(10.0) is None
    assert "0 s left" in (Budget(0.0).lack(10.0) or "")


def test_windows_hold_the_steps_that_began_in_them(tmp_path: Path) -> None:
    prepare_versions(tmp_path, versions=1, change=0.0, onnx_alone=True)
    timer = StepTimer(tmp_path)
    timer.act_for(0.2)
    began_ns = timer._began_ns[: timer._steps]
    assert (np.diff(began_ns) > 0).all()
    assert timer._steps % STEPS_BETWEEN_ADOPTIONS == 0
    middle_s = int(began_ns[100]) / 1e9
    first, second = timer.windows([int(began_ns[0]) / 1e9, middle_s, middle_s + 10.0])
    assert first.steps_per_s * (middle_s - int(began_ns[0]) / 1e9) == pytest.approx(100, abs=1)
    assert second.steps_per_s * 10.0 == pytest.approx(timer._steps - 100, abs=1)
    assert first.step_us["p50"] <= first.step_us["p99"] <= first.step_us["p99.9"]
    assert (first.adoptions, second.adoptions) in ((1, 0), (0, 1), (0, 0))
    timer._agent.close()


def exit_at_once(_connection: object) -> None:
    raise SystemExit(3)


def test_helper_that_exits_raises_hotswap_error() -> None:
    with HelperProcess(exit_at_once) as helper, pytest.raises(HotswapError, match="ended"):
        helper.receive()


@pytest.mark.slow
def test_reload_with_small_settings() -> None:
    from scripts.benchmarks.reload.action_integrity import measure_action_integrity
    from scripts.benchmarks.reload.reload import measure_memory, measure_watching
    from scripts.benchmarks.reload.step_times import measure_step_times

    check(measure_step_times(rounds=1))
    integrity = measure_action_integrity(1_000, Console(), budget_s=60.0)
    check(integrity)
    assert integrity[0].value == 0
    check(measure_memory(200, Console(), budget_s=60.0))
    check(measure_watching(versions=30, seconds=0.2, settle_s=0.1))


@pytest.mark.slow
def test_prefetching_with_small_settings() -> None:
    from scripts.benchmarks.reload.step_times import measure_prefetching

    check(measure_prefetching(1, Console(), rates_per_s=(10.0,), windows=5))


@pytest.mark.slow
def test_publish_with_small_settings() -> None:
    from scripts.benchmarks.publish import measure_large, measure_publishing_cost, measure_small
    from scripts.benchmarks.publisher import measure_publisher

    check(measure_small(2, 2, pace_s=1e-3, actors=2))
    check(measure_large(2, hidden_sizes=(256,)))
    check(measure_publishing_cost(1, block_s=0.2, publications=2))
    check(measure_publisher(2, 2, large=(8,)))


@pytest.mark.slow
def test_scale_with_small_settings(capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.benchmarks.scale import grow_actors, grow_models, grow_versions

    console = Console()
    check(grow_actors((1, 2), console).results())
    models = grow_models(((8,), (16, 16), (10**6, 10**6)), console).results()
    check(models)
    assert len(models) == 4
    assert "omitted" in capsys.readouterr().out
    check(grow_versions((2, 5), console).results())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_benchmark_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Neither Ctrl-C nor ``kill`` leaves processes or directories."""
    command = [sys.executable, str(CHECKOUT / "scripts" / "benchmark.py"), "reload"]
    environment = child_environment() | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        # Background processes of a shell ignore Ctrl-C, and children inherit that.
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
