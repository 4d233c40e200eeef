"""Canary evaluation step by step: a worse version acts only in its share, any other is adopted by all actors."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from actor.agent import Agent
from actor.canary import canary_ledger
from actor.canary.rank_sum import EPISODES
from actor.rollouts.episodes import FinishedEpisode
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore, version_name
from shared.store.store_notes import MAX_NOTE_BYTES, LocalNotes
from tests.support.agent_policies import MakeAgent, TouchyPolicy, publish, publish_seed, touchy_exporter
from tests.support.captured_logs import CapturedLogs

SHARE = 0.25
ENOUGH = 200
OBSERVATION = np.zeros(4, np.float32)


@pytest.fixture
def make_canary(make_agent: MakeAgent) -> MakeAgent:
    def make(name: str = "actor-0", **settings: object) -> Agent:
        return make_agent(**({"num_envs": None, "canary": SHARE, "name": name, "seed": len(name)} | settings))

    return make


def act(agent: Agent, returns: dict[int, float], episodes: int = 1) -> list[int]:
    """Act whole episodes with these mean returns by version, and return the versions that acted."""
    acted = []
    for _ in range(episodes):
        agent.reset()
        policy = agent.policy
        value = returns[policy.version] + len(acted) % 3
        agent.episodes_ended([FinishedEpisode(value, 1, policy.version, (policy.version,), policy.digest)])
        acted.append(policy.version)
    return acted


@pytest.fixture
def agent(store: LocalPolicyStore, make_canary: MakeAgent) -> Agent:
    """An agent that acted one episode with version 0."""
    agent = make_canary()
    publish_seed(store, 0)
    act(agent, {0: 100})
    return agent


def act_by_turns(agents: Iterable[Agent], returns: dict[int, float], episodes: int = ENOUGH) -> list[list[int]]:
    acted = [(agent, list[int]()) for agent in agents]
    for _ in range(episodes):
        for agent, versions in acted:
            versions.extend(act(agent, returns))
    return [versions for _, versions in acted]


def test_a_worse_version_acts_in_its_share_only_and_is_quarantined(
    store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
) -> None:
    digest = publish_seed(store, 1).digest
    acted = act(agent, {0: 100, 1: 10}, ENOUGH)
    last = max(i for i, version in enumerate(acted) if version == 1)
    assert acted.count(1) == EPISODES
    assert 0.1 < EPISODES / (last + 1) < 0.5
    assert agent.policy.version == 0
    (began,) = captured_logs.lines_with("in canary evaluation")
    assert "policy version 1 in canary evaluation share=0.25 baseline=0" in began
    (verdict,) = captured_logs.lines_with("quarantined reason")
    assert "ERROR | actor.agent:reset - policy version 1 quarantined reason=worse returns: mean return 1" in verdict
    assert "in 20 episodes, beside 10" in verdict
    assert "one-sided rank-sum test at 0.01" in verdict
    assert store.quarantined()[digest].startswith("worse returns: mean return")
    publish_seed(store, 2)
    assert 2 in act(agent, {0: 100, 1: 10, 2: 10}, 20)


def test_a_restarted_actor_evaluates_no_version_that_was_worse(
    store: LocalPolicyStore, make_canary: MakeAgent, tmp_path: Path
) -> None:
    """The notes of the store keep only the last verdict."""
    agent = make_canary(cache_directory=tmp_path / "cache")
    publish_seed(store, 0)
    act(agent, {0: 100})
    for version in (1, 2):
        publish_seed(store, version)
        assert version in act(agent, {0: 100, 1: 10, 2: 10}, ENOUGH)
    again = make_canary(cache_directory=tmp_path / "cache")
    assert set(act(again, {0: 100, 1: 10, 2: 10}, ENOUGH)) == {0}


def test_a_version_that_is_no_worse_is_adopted(
    store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
) -> None:
    publish_seed(store, 1)
    acted = act(agent, {0: 100, 1: 100}, ENOUGH)
    assert set(acted[-100:]) == {1}
    assert set(acted[: acted.index(1) + 1]) == {0, 1}
    (line,) = captured_logs.lines_with("passed canary")
    assert "INFO | actor.agent:reset - policy version 1 passed canary evaluation reason=mean return 10" in line
    assert store.quarantined() == {}
    assert agent._manager.engines_alive() <= 3


def test_newer_versions_wait_for_the_verdict_and_then_the_newest_is_next(
    store: LocalPolicyStore, make_canary: MakeAgent, captured_logs: CapturedLogs
) -> None:
    agent = make_canary()
    returns = dict.fromkeys(range(100), 100.0)
    for seed in range(2):
        publish_seed(store, seed)
        act(agent, returns)
    for seed in range(2, 6):
        publish_seed(store, seed)
        assert set(act(agent, returns, 4)) <= {0, 1}
    assert set(act(agent, returns, ENOUGH)) == {0, 1, 5}
    assert agent.policy.version == 5
    assert len(captured_logs.lines_with("passed canary")) == 2


@pytest.mark.parametrize("is_worse", [True, False])
def test_actors_evaluate_together(
    store: LocalPolicyStore, make_canary: MakeAgent, captured_logs: CapturedLogs, is_worse: bool
) -> None:
    agents = [make_canary(f"actor-{'i' * n}") for n in range(3)]
    publish_seed(store, 0)
    act_by_turns(agents, {0: 100}, 1)
    publish_seed(store, 1)
    acted = act_by_turns(agents, {0: 100, 1: 10 if is_worse else 100})
    expected = 0 if is_worse else 1
    assert {version for versions in acted for version in versions[-50:]} == {expected}
    if is_worse:
        assert all(0 < versions.count(1) < EPISODES for versions in acted)
        assert EPISODES <= sum(versions.count(1) for versions in acted) < EPISODES + 2 * len(agents)
    assert len(captured_logs.lines_with("quarantined reason" if is_worse else "passed canary")) == len(agents)
    reasons = {line.partition("mean return")[2] for line in captured_logs.lines_with("reason=")}
    assert len(reasons) == 1, "one look, one verdict"


def test_the_notes_of_an_ended_actor_count_and_block_no_other(store: LocalPolicyStore, make_canary: MakeAgent) -> None:
    dies, lives = make_canary("dies"), make_canary("lives")
    publish_seed(store, 0)
    act_by_turns([dies, lives], {0: 100}, 1)
    publish_seed(store, 1)
    seen = act(dies, {0: 100, 1: 10}, 40).count(1)
    assert 0 < seen < EPISODES
    dies.close()
    acted = act(lives, {0: 100, 1: 10}, ENOUGH)
    assert acted.count(1) == EPISODES - seen
    assert lives.policy.version == 0


def test_the_evaluation_of_a_removed_version_is_given_up(
    store: LocalPolicyStore, make_canary: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies, lives = make_canary("dies"), make_canary("lives")
    publish_seed(store, 0)
    act_by_turns([dies, lives], {0: 100}, 1)
    publish_seed(store, 1)
    act(dies, {0: 100, 1: 100}, 2)
    dies.close()
    shutil.rmtree(store.path / version_name(1))
    publish_seed(store, 2)
    returns = dict.fromkeys(range(3), 100.0)
    assert set(act(lives, returns, 50)) == {0}
    monkeypatch.setattr(canary_ledger, "ABANDONED_AFTER_S", 0.0)
    assert set(act(lives, returns, ENOUGH)) == {0, 2}
    assert lives.policy.version == 2


def test_an_actor_that_starts_later_begins_with_the_adopted_version(
    store: LocalPolicyStore, make_canary: MakeAgent
) -> None:
    first = make_canary("first")
    publish_seed(store, 0)
    act(first, {0: 100})
    publish_seed(store, 1)
    act(first, {0: 100, 1: 10}, 4)
    later = make_canary("later")
    assert 0 in act(later, {0: 100, 1: 10}, 12)
    assert later._manager.newest is not None
    assert later._manager.newest.version == 0, "not the candidate"
    act_by_turns([first, later], {0: 100, 1: 10})
    last = make_canary("last")
    assert set(act(last, {0: 100}, 50)) == {0}, "not what was found to be worse, though it is the newest"


def test_actors_that_start_together_begin_with_the_same_version(
    store: LocalPolicyStore, make_canary: MakeAgent
) -> None:
    publish_seed(store, 0)
    first, second = make_canary("first"), make_canary("second")
    act(first, {0: 100})
    publish_seed(store, 1)
    second.reset()
    assert second._manager.newest is not None
    assert second._manager.newest.version == 0


def test_a_candidate_that_fails_while_acting_is_worse(
    store: LocalPolicyStore, make_canary: MakeAgent, captured_logs: CapturedLogs
) -> None:
    touched, other = make_canary("touched", canary=0.9), make_canary("other")
    publish(store, TouchyPolicy(), touchy_exporter())
    act_by_turns([touched, other], {0: 100}, 1)
    digest = publish(store, TouchyPolicy(nan_above=100.0, seed=1), touchy_exporter()).digest
    act_by_turns([touched, other], {0: 100, 1: 100}, 2)
    while touched.policy.version == 0:
        act(touched, {0: 100, 1: 100})
    touched.act(OBSERVATION + 1000)
    assert touched.policy.version == 0
    assert set(act(touched, {0: 100}, 30)) == {0}
    assert set(act(other, {0: 100, 1: 100}, 31)[1:]) == {0}
    assert len(captured_logs.lines_with("version 1 quarantined")) == 2
    assert "log_prob nan" in store.quarantined()[digest]


def test_the_candidate_acts_if_no_other_version_is_left(store: LocalPolicyStore, make_canary: MakeAgent) -> None:
    agent = make_canary()
    publish(store, TouchyPolicy(nan_above=100.0), touchy_exporter())
    act(agent, {0: 100})
    publish(store, TouchyPolicy(seed=1), touchy_exporter())
    act(agent, {0: 100, 1: 100})
    while agent.policy.version == 1:
        act(agent, {0: 100, 1: 100})
    agent.act(OBSERVATION + 1000)
    assert agent.policy.version == 1
    assert set(act(agent, {1: 10}, 60)) == {1}


@pytest.mark.parametrize("returned", [b"", b"{", b'{"candidate": [1e999]}', b"[" * 10**5, b"x" * (MAX_NOTE_BYTES + 1)])
def test_invalid_notes_are_ignored(store: LocalPolicyStore, make_canary: MakeAgent, returned: bytes) -> None:
    agent = make_canary()
    publish_seed(store, 0)
    notes = store.path / "notes"
    notes.mkdir()
    for name in ("trial-000000000", "trial-000000001", "trial-7", "returns-000000002-" + "0" * 14, "readme"):
        (notes / f"{name}.json").write_bytes(returned)
    (notes / "verdict-000000003.json").write_bytes(returned)
    act(agent, {0: 100})
    publish_seed(store, 1)
    returns = dict.fromkeys(range(3), 100.0)
    act(agent, returns, ENOUGH)
    assert agent.policy.version == 1
    publish_seed(store, 2)
    act(agent, returns | {2: 10}, ENOUGH)
    assert agent.policy.version == 1


def test_without_writable_notes_each_actor_evaluates_alone(
    store: LocalPolicyStore, make_canary: MakeAgent, captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise StoreUnavailable("read-only file system")

    monkeypatch.setattr(LocalNotes, "write", refuse)
    monkeypatch.setattr(LocalNotes, "create", refuse)
    agents = [make_canary("alone"), make_canary("alone, too")]
    publish_seed(store, 0)
    act_by_turns(agents, {0: 100}, 1)
    publish_seed(store, 1)
    acted = act_by_turns(agents, {0: 100, 1: 10})
    assert [versions.count(1) for versions in acted] == [EPISODES, EPISODES]
    assert {versions[-1] for versions in acted} == {0}
    warned = captured_logs.lines_with("notes are not shared")
    assert len(warned) == 2
    assert "read-only file system" in warned[0]
