"""Every kind of bad version is refused or caught, is logged with its reason, and costs no step."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.sandbox.program_sandbox import SandboxLimits
from shared.policy.manifest import PROBE_FILE
from shared.policy.probe import compute_probe, encode_probe
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import (
    OBSERVATIONS,
    MakeAgent,
    TouchyPolicy,
    eager,
    local_store,
    make_policy,
    publish,
    publish_seed,
    quiet_noise,
    touchy_exporter,
)
from tests.support.bad_programs import publish_program, publish_steered
from tests.support.bad_versions import BAD_KINDS, SLOW_KINDS, BadKind, publish_bad
from tests.support.captured_logs import CapturedLogs
from tests.support.impure_policies import MixesRowsByWeights
from tests.support.waiting import until

FAR = OBSERVATIONS + np.array([1e5, 0, 0, 0], np.float32)
LIMITS = SandboxLimits(timeout_s=10.0, memory_bytes=2**29)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalPolicyStore:
    return local_store(tmp_path_factory.mktemp("bad") / "policies")


@pytest.fixture(scope="module")
def agent(store: LocalPolicyStore) -> Iterator[Agent]:
    """One agent for all tests: its sandbox process takes seconds to start."""
    with Agent(
        store, AgentOptions(num_envs=3, synchronous=True, deadline_s=0.0, deterministic=True, sandbox=LIMITS)
    ) as agent:
        yield agent


def _kinds(choose: Callable[[BadKind], bool], *, slow: bool = False) -> list[object]:
    kinds = filter(choose, BAD_KINDS)
    return [pytest.param(kind, id=kind.name) for kind in kinds if _is_slow(kind) is slow]


def _is_slow(kind: BadKind) -> bool:
    """The test of other contents of the same program has a crash by weights, too."""
    return kind.name in SLOW_KINDS or kind.name.endswith("by its weights")


def _acts_first(kind: BadKind) -> bool:
    return kind.outcome == "quarantined while acting"


def _acts_as(agent: Agent, seed: int) -> None:
    policy = make_policy(seed=seed)
    (expected, *_) = eager(policy, OBSERVATIONS, quiet_noise(policy, 3))
    np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected)


def _never_acts(store: LocalPolicyStore, agent: Agent, captured_logs: CapturedLogs, kind: BadKind) -> None:
    first = publish_seed(store, 0)
    agent.reset()
    bad = publish_bad(store, kind)
    for _ in range(3):
        agent.reset()
        _acts_as(agent, seed=0)
        assert agent.policy.version == first.version
    if "hang" in kind.name:  # what did not answer once may have been held up: it is asked twice
        until(lambda: (agent.reset(), captured_logs.has("quarantined reason"))[1])
    said = captured_logs.lines_with(f"version {bad} ")
    if kind.outcome == "not seen":
        assert not said
    else:
        word = "quarantined" if kind.outcome == "quarantined" else "will be retried"
        assert [line for line in said if word in line and kind.reason in line], captured_logs.lines
        assert len(said) <= 2, "one line a reason"
    good = publish_seed(store, 2)
    agent.reset()
    assert agent.policy.version == good.version
    _acts_as(agent, seed=2)


@pytest.mark.parametrize("kind", _kinds(lambda kind: not _acts_first(kind)))
def test_it_never_acts(store: LocalPolicyStore, agent: Agent, captured_logs: CapturedLogs, kind: BadKind) -> None:
    _never_acts(store, agent, captured_logs, kind)


@pytest.mark.parametrize("kind", _kinds(lambda kind: kind.of_files and not _acts_first(kind)))
def test_it_never_acts_though_large_weights_are_loaded_while_their_digest_is_computed(
    store: LocalPolicyStore,
    agent: Agent,
    captured_logs: CapturedLogs,
    monkeypatch: pytest.MonkeyPatch,
    kind: BadKind,
) -> None:
    monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 0)
    _never_acts(store, agent, captured_logs, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", _kinds(lambda _: True, slow=True))
def test_it_never_acts_though_its_verification_takes_seconds(
    store: LocalPolicyStore, agent: Agent, captured_logs: CapturedLogs, kind: BadKind
) -> None:
    _never_acts(store, agent, captured_logs, kind)


@pytest.mark.parametrize("is_known", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["known", "unknown"])
@pytest.mark.parametrize(
    "harm", ["crash", pytest.param("memory", marks=pytest.mark.slow), pytest.param("hang", marks=pytest.mark.slow)]
)
def test_a_content_that_fails_by_its_weights_condemns_no_other_of_the_same_program(
    tmp_path: Path, make_agent: MakeAgent, harm: str, is_known: bool
) -> None:
    """The loop and the sizes follow weights, so that each content runs in the sandbox first."""
    store = local_store(tmp_path / "policies")
    limits = SandboxLimits(timeout_s=60.0, cpu_s=2.0, memory_bytes=2**29)
    agent = make_agent(store, sandbox=limits)
    if is_known:
        publish_steered(store, 0)
    else:
        publish_seed(store, 0)
    agent.reset()
    bad = publish_steered(store, 1, harm)
    agent.reset()
    _acts_as(agent, seed=0)
    assert agent.policy.version == 0
    for seed in (2, 3):
        good = publish_steered(store, seed)
        agent.reset()
        assert agent.policy.version == good.version
        _acts_as(agent, seed)
    assert list(store.quarantined()) == [bad.digest]


@pytest.mark.parametrize("batch_size", [8, 16])
def test_weights_that_let_rows_influence_each_other_are_refused_though_their_program_is_known(
    store: LocalPolicyStore, make_agent: MakeAgent, batch_size: int
) -> None:
    """As many rows as the probe has, or a multiple: repeated rows alone would hide it."""
    agent = make_agent(num_envs=batch_size)
    digests = set()
    for share, acting in ((0.0, 0), (1.0, 0), (0.0, 2)):
        module = MixesRowsByWeights(acting, share=share).eval()
        probe = encode_probe(compute_probe(module, module.signature), module.signature)
        made = publish_program(store, module, {PROBE_FILE: probe})
        digests |= {program.program_digest for program in made.programs}
        agent.reset()
        assert agent.policy.version == made.version - (share > 0)
    assert len(digests) == 1


@pytest.mark.parametrize("kind", _kinds(_acts_first))
def test_the_last_good_version_answers_if_only_some_inputs_show_the_fault(
    store: LocalPolicyStore, agent: Agent, captured_logs: CapturedLogs, kind: BadKind
) -> None:
    good = TouchyPolicy(seed=0)
    first = publish(store, good, touchy_exporter())
    agent.reset()
    bad = publish_bad(store, kind)
    agent.reset()
    agent.act(OBSERVATIONS)
    assert agent.policy.version == bad
    (expected, *_) = eager(good, FAR, quiet_noise(good.policy, 3))
    np.testing.assert_array_equal(agent.act(FAR), expected)
    assert agent.policy.version == first.version
    assert [line for line in captured_logs.lines if f"version {bad} quarantined" in line and kind.reason in line]
