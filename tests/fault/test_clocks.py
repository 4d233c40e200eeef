"""Clocks that jump: times are recorded for people, and decide nothing."""

import ast
import itertools
import os
from pathlib import Path

import pytest

from learner.training.run_options import Outcome
from shared.store.policy_store import LocalPolicyStore, version_name
from tests.support.agent_policies import OBSERVATIONS, MakeAgent, publish_seed
from tests.support.learner_loops import STEPS, LoopRun
from tests.support.paths import REPOSITORY
from tests.support.waiting import until

DAY_S = 86400.0
UPDATES = 6

# Modules that may read the clock, by purpose.
READ_THE_CLOCK = {
    # Time stamps of versions, reports, rollouts and advice.
    "learner/export/module_export.py",
    "learner/publishing/policy_publisher.py",
    "learner/training/training_observer.py",
    "actor/rollouts/rollout_worker.py",
    "rl_hotswap/cli/rollback.py",
    "scripts/conformance/engine_agreement.py",
    "shared/store/store_notes.py",
    # The age of a version, for people.
    "actor/versions/loader_thread.py",
    "rl_hotswap/cli/inspect.py",
    # The age of the first rollout, bounded by that of the learner.
    "learner/training/training_statistics.py",
    # The age of files, in both directions, together with a lock of a live writer.
    "shared/files/small_files.py",
    "shared/store/pending_version.py",
    # The age of the last change of a directory, which is listed anyway.
    "actor/watching/policy_watcher.py",
}
# Programs that measure the others.
MEASURE = ("scripts/benchmarks/", "scripts/chaos.py", "scripts/fault_injection/")
_CLOCKS = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")


@pytest.fixture(params=["back", "to and fro"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every reading of the clock return another day."""
    days = itertools.count(20_000, -1) if request.param == "back" else itertools.cycle([20_000, 12_000, 30_000])
    monkeypatch.setattr("time.time", lambda: next(days) * DAY_S)
    monkeypatch.setattr("time.time_ns", lambda: int(next(days) * DAY_S) * 10**9)


@pytest.mark.usefixtures("clock")
def test_a_learner_trains_publishes_and_resumes(tmp_path: Path) -> None:
    run = LoopRun(tmp_path, total_steps=UPDATES * STEPS)
    run.send_many(UPDATES)
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert run.published_updates() == list(range(UPDATES + 1))
    train_s = run.loop.clock.train_s
    assert 0 <= train_s <= run.loop.clock.wall_s
    run.publisher.close()

    again = LoopRun(tmp_path, total_steps=(UPDATES + 1) * STEPS)
    again.loop.resume()
    again.send_many(1)
    assert again.loop.run() is Outcome.STEP_LIMIT
    assert again.loop.counters.updates == UPDATES + 1
    again.publisher.close()


@pytest.mark.usefixtures("clock")
def test_an_actor_adopts_versions_with_any_time_stamps(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    agent = make_agent(synchronous=False, deadline_s=60.0)
    for version, day in enumerate([20_000, 1, 40_000, 20_000]):
        publish_seed(store, version)
        for path in (store.path / version_name(version), store.path):
            os.utime(path, (day * DAY_S, day * DAY_S))
        if version == 0:
            agent.reset()
        until(lambda version=version: agent.adopt().version == version)
        agent.act(OBSERVATIONS)


def test_no_other_module_reads_the_clock() -> None:
    def reads(path: Path) -> bool:
        text = path.read_text()
        if not any(name in text for name in _CLOCKS):
            return False
        uses = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute))
        return any(ast.unparse(use) in _CLOCKS for use in uses)

    sources = (
        path
        for name in ("rl_hotswap", "actor", "learner", "shared", "scripts")
        for path in (REPOSITORY / name).rglob("*.py")
    )
    paths = {path.relative_to(REPOSITORY).as_posix() for path in sources if reads(path)}
    assert {path for path in paths if not path.startswith(MEASURE)} == READ_THE_CLOCK
