"""Acting loops step their environments, and baselines that are not installed are skipped with a line."""

import io
from contextlib import ExitStack
from importlib.util import find_spec
from typing import get_args

import pytest
from rich.console import Console

from scripts.benchmarks.acting.acting_loops import (
    RecordedRollouts,
    Variant,
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
from scripts.benchmarks.common.result import is_installed
from scripts.benchmarks.common.rounds import steps_per_s
from shared.store.policy_store import LocalPolicyStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalPolicyStore:
    return publish_policy(tmp_path_factory.mktemp("policies"), onnx=False)


def test_own_loops_step_and_report_the_share_of_real_steps(store: LocalPolicyStore) -> None:
    with ExitStack() as resources:
        assert agent_loop(store, resources)() > 0
        worker = RecordedRollouts(store, num_envs=8, length=64, resources=resources)
        assert worker() == 8 * 64
        assert 0.8 < worker.real_share < 1  # episodes of twenty steps, and one step that only resets


def test_environments_alone_count_every_step() -> None:
    assert environment_alone()() > 0
    assert environments_alone(16)() % 16 == 0


def test_bare_loops_step(store: LocalPolicyStore) -> None:
    assert all(bare_torchscript(variant)() > 0 for variant in get_args(Variant))
    assert bare_same_program(store)() > 0


def test_baseline_loops_step_all_environments() -> None:
    assert [cleanrl_rollouts(num_envs, 10)() for num_envs in (1, 3)] == [10, 30]
    assert sb3_predict_and_step()() > 0
    assert sb3_collect_rollouts(3, 10)() == 30


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchrl") is None, reason="torchrl is not installed")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("num_envs", [1, 3])
def test_torchrl_collector_steps(num_envs: int) -> None:
    assert torchrl_collector(num_envs, 10)() == num_envs * 10


def test_steps_per_second_measures_at_least_one_piece() -> None:
    assert steps_per_s(lambda: 5, 0.0) > 0


def test_missing_library_is_reported_in_a_line() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    assert is_installed("numpy", "ours skipped", console)
    assert not is_installed("no_such_library", "theirs skipped", console)
    expected = 'theirs skipped: no_such_library is not installed (pip install -e ".[bench]")'
    assert console.export_text().strip() == expected
