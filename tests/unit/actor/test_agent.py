"""An agent with good policies. tests/fault/test_agent_faults.py has the bad ones."""

import sys
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.versions.follow_rules import History
from actor.versions.loader_thread import PolicyLoader
from shared.errors import PolicyUnavailable, SignatureMismatch
from shared.policy.manifest import WEIGHTS_FILE
from shared.policy.noise import NoiseStream
from shared.policy.weights import decode_weights, encode_weights
from shared.store.policy_store import LocalPolicyStore, VersionFiles
from tests.support.agent_policies import ACTIONS, eager, exporter, make_policy, publish, publish_seed, quiet_noise
from tests.support.waiting import until

OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

MakeAgent = Callable[..., Agent]


@pytest.fixture
def make_agent(make_agent: MakeAgent) -> MakeAgent:
    return partial(make_agent, deterministic=False)


@pytest.mark.parametrize("kind", ACTIONS)
def test_acts_as_the_policy_does(store: LocalPolicyStore, make_agent: MakeAgent, kind: str) -> None:
    publish_seed(store, 1, action=kind)
    agent = make_agent(deterministic=True)
    agent.reset()
    policy = make_policy(action=kind, seed=1)
    expected = eager(policy, OBSERVATIONS, quiet_noise(policy, 3))
    decision = agent.decide([OBSERVATIONS])
    np.testing.assert_allclose(decision.action, expected[0], rtol=1e-5)
    np.testing.assert_allclose(decision.log_prob, expected[-2], rtol=1e-5)
    np.testing.assert_allclose(decision.value, expected[-1], rtol=1e-5)
    np.testing.assert_array_equal(agent.act(OBSERVATIONS), decision.env_action)


@pytest.mark.parametrize("engine", ["llvm", "onnx", "torchscript"])
def test_a_decision_has_a_value_only_if_it_was_requested(
    store: LocalPolicyStore, make_agent: MakeAgent, engine: str
) -> None:
    publish_seed(store, 1, onnx=True)
    asked, plain = make_agent(engine=engine), make_agent(engine=engine, values=False)
    decision = plain.decide([OBSERVATIONS])
    assert decision.value is None
    whole = asked.decide([OBSERVATIONS])
    assert whole.value is not None
    assert plain.policy.engine_name == engine
    for name in ("action", "env_action", "log_prob"):
        np.testing.assert_array_equal(getattr(decision, name), getattr(whole, name))


def test_weights_of_a_value_that_is_not_requested_must_be_finite_too(
    store: LocalPolicyStore, make_agent: MakeAgent
) -> None:
    publish_seed(store, 0, onnx=True)
    policy = make_policy(seed=1)
    files, _, _ = exporter(onnx=True).files(policy.state_dict())
    arrays = {name: array.copy() for name, array in decode_weights(files[WEIGHTS_FILE]).items()}
    arrays["core.network.2.bias"][-1] = np.nan  # the value's row of the last layer
    publish(store, policy, exporter(onnx=True), instead={WEIGHTS_FILE: encode_weights(arrays)})
    agent = make_agent(engine="onnx", values=False)
    agent.reset()
    assert agent.policy.version == 0


def test_one_environment_is_a_batch_of_one(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 1)
    batch, single = make_agent(deterministic=True), make_agent(num_envs=None, deterministic=True)
    actions = [single.act(observation) for observation in OBSERVATIONS]
    assert actions == batch.act(OBSERVATIONS).tolist()
    assert all(type(action) is int for action in actions)


def test_one_environment_gets_actions_of_its_space(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 1, action="multi_binary")
    action = make_agent(num_envs=None).act(OBSERVATIONS[0].astype(np.float64))
    assert (action.shape, action.dtype) == ((3,), np.int8)


def test_nested_observations_are_flattened(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 1, nested=True)
    camera = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    observation = {"camera": (camera,), "speed": np.ones((3, 3))}
    agent = make_agent(deterministic=True)
    policy = make_policy(nested=True, seed=1)
    expected = eager(policy, camera, np.ones((3, 3), np.float32), quiet_noise(policy, 3))
    np.testing.assert_array_equal(agent.act(observation), expected[0])


def test_masked_actions_are_never_taken(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 1, masked=True)
    agent = make_agent(num_envs=None, seed=3)
    for step in range(60):
        legal = step % 3
        mask = np.zeros(3, np.int8)
        mask[legal] = 1
        assert agent.act(OBSERVATIONS[0], mask) == legal


def test_seed_and_offset_stand_for_the_noise(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 1)
    agent, policy = make_agent(seed=11), make_policy(seed=1)
    stream = NoiseStream(policy.signature.action, 3, agent.noise_seed)
    agent.reset()
    for _ in range(100):
        noise = stream.at(agent.noise_offset)
        decision = agent.decide([OBSERVATIONS])
        expected = eager(policy, OBSERVATIONS, noise)
        np.testing.assert_array_equal(decision.action, expected[0])
        np.testing.assert_allclose(decision.log_prob, expected[1], rtol=1e-4)
    assert agent.noise_offset == 100


def test_a_reset_adopts_the_newest_version_and_loads_none_twice(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    opened: list[int] = []

    class Counting(LocalPolicyStore):
        def open(self, version: int) -> VersionFiles:
            opened.append(version)
            return super().open(version)

    publish_seed(store, 0)
    agent = Agent(Counting(store.path), AgentOptions(num_envs=3, synchronous=True))
    for _ in range(3):
        agent.reset()
    publish_seed(store, 1)
    publish_seed(store, 2)
    for _ in range(3):
        agent.reset()
    assert opened == [0, 2]
    assert agent.adoptions == 2
    assert agent.policy.version == 2
    agent.close()


def test_waiting_for_a_version_makes_it_ready_and_adopts_nothing(store: LocalPolicyStore) -> None:
    publish_seed(store, 0)
    with Agent(store, AgentOptions(num_envs=3)) as agent:
        agent.reset()
        assert agent.wait_for_version(0, 0.0)
        publish_seed(store, 1)
        assert agent.wait_for_version(1, 30.0)
        assert agent.policy.version == 0
        assert agent.adopt().version == 1
        assert not agent.wait_for_version(2, 0.0)


def test_new_weights_of_the_same_program_act_exactly(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    """The fast path changes the whole policy, and never the acting one."""
    agent = make_agent(deterministic=True)
    for seed in range(8):
        before = agent.decide([OBSERVATIONS]).value if seed else None
        publish_seed(store, seed)
        if before is not None:
            np.testing.assert_array_equal(agent.decide([OBSERVATIONS]).value, before)
        agent.adopt()
        policy = make_policy(seed=seed)
        expected = eager(policy, OBSERVATIONS, quiet_noise(policy, 3))
        np.testing.assert_allclose(agent.decide([OBSERVATIONS]).value, expected[-1], rtol=1e-5)
        assert agent.policy.version == seed


def test_two_agents_share_no_network(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 0)
    old, new = make_agent(deterministic=True), make_agent(deterministic=True)
    old.reset()
    before = old.decide([OBSERVATIONS]).value
    for seed in range(1, 5):
        publish_seed(store, seed)
        new.reset()
    assert (old.policy.version, new.policy.version) == (0, 4)
    np.testing.assert_array_equal(old.decide([OBSERVATIONS]).value, before)
    assert not np.array_equal(new.decide([OBSERVATIONS]).value, before)


class TestRecurrentState:
    @pytest.fixture
    def agent(self, store: LocalPolicyStore, make_agent: MakeAgent) -> Agent:
        """A deterministic agent that acts with version 0, which has an LSTM."""
        publish_seed(store, 1, network="lstm")
        agent = make_agent(deterministic=True)
        agent.reset()
        return agent

    def test_goes_from_step_to_step(self, agent: Agent) -> None:
        policy = make_policy(network="lstm", seed=1)
        state = [np.zeros((3, 4), np.float32)] * 2
        for _ in range(4):
            np.testing.assert_allclose(agent.state, state, rtol=1e-4, atol=1e-6)
            decision = agent.decide([OBSERVATIONS])
            *_, value, h, c = eager(policy, OBSERVATIONS, *state, quiet_noise(policy, 3))
            np.testing.assert_allclose(decision.value, value, rtol=1e-4, atol=1e-6)
            state = [h, c]

    def test_never_leaks_into_the_next_episode(self, agent: Agent) -> None:
        first = agent.decide([OBSERVATIONS])
        second = agent.decide([OBSERVATIONS])
        assert not np.array_equal(first.value, second.value)
        agent.reset()
        np.testing.assert_array_equal(agent.decide([OBSERVATIONS]).value, first.value)

    @pytest.mark.parametrize("rows", [np.array([1]), np.array([False, True, False])])
    def test_of_some_rows_is_cleared_alone(self, store: LocalPolicyStore, agent: Agent, rows: np.ndarray) -> None:
        agent.decide([OBSERVATIONS])
        recorded = agent.state
        copies = [array.copy() for array in recorded]
        publish_seed(store, 2, network="lstm")
        agent.reset(rows)
        for array, copy, now in zip(recorded, copies, agent.state, strict=True):
            np.testing.assert_array_equal(array, copy, "what a rollout holds is not written to")
            np.testing.assert_array_equal(now[[0, 2]], copy[[0, 2]])
            assert not now[1].any()
        assert agent.policy.version == 0, "rows that begin anew adopt nothing"

    def test_is_kept_by_an_adoption_of_the_same_network(self, store: LocalPolicyStore, agent: Agent) -> None:
        agent.decide([OBSERVATIONS])
        state = agent.state
        publish_seed(store, 2, network="lstm")
        assert agent.adopt().version == 1
        assert all(a is b for a, b in zip(state, agent.state, strict=True))

    def test_is_zero_after_an_adoption_of_another_network(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        publish_seed(store, 1)
        agent = make_agent()
        agent.reset()
        assert agent.state == ()
        publish_seed(store, 2, network="lstm")
        agent.adopt()
        assert [(array.shape, array.any()) for array in agent.state] == [((3, 4), False)] * 2
        agent.decide([OBSERVATIONS])
        publish_seed(store, 3)
        agent.adopt()
        assert agent.state == ()
        agent.decide([OBSERVATIONS])


class TestFollow:
    def test_pinned(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        for seed in range(3):
            publish_seed(store, seed)
        agent = make_agent(follow="pinned:1")
        agent.reset()
        publish_seed(store, 3)
        agent.reset()
        assert agent.policy.version == 1

    def test_pinned_to_what_comes_later(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        publish_seed(store, 0)
        agent = make_agent(follow="pinned:1")
        with pytest.raises(PolicyUnavailable, match=r"version 1 is not among its 1 versions \(0 to 0\)"):
            agent.reset()
        publish_seed(store, 1)
        agent.reset()
        assert agent.policy.version == 1

    def test_history_acts_a_share_of_the_episodes_with_older_versions(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        for seed in range(5):
            publish_seed(store, seed)
        agent = make_agent(follow=History(0.5), seed=1)
        episodes = []
        for _ in range(400):
            agent.reset()
            episodes.append(agent.policy.version)
            assert agent.adopt().version == episodes[-1], "an episode is acted by one version"
        older = [version for version in episodes if version != 4]
        assert episodes[0] == 4
        assert 160 < len(older) < 240
        assert all(25 < older.count(version) < 75 for version in range(4))
        assert agent._manager.engines_alive() <= 4


class TestNoPolicy:
    def test_an_empty_store(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        agent = make_agent()
        with pytest.raises(PolicyUnavailable) as caught:
            agent.reset()
        assert str(caught.value) == (
            f"nothing to act with after 0 s, following newest in {store}: no version has been published there yet"
        )
        with pytest.raises(PolicyUnavailable, match=r"call reset\(\) first"):
            _ = agent.policy

    def test_a_store_that_was_not_read_in_time_is_not_called_empty(
        self, store: LocalPolicyStore, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_seed(store, 0)
        monkeypatch.setattr(PolicyLoader, "load_pending", lambda _self: None)
        with pytest.raises(PolicyUnavailable, match=r"after 0 s, .*: it has not been read yet: give it more time$"):
            make_agent().reset()

    def test_it_waits_for_the_first_version(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        agent = make_agent(synchronous=False, deadline_s=60.0)
        waiting = threading.Thread(target=agent.reset)
        waiting.start()
        publish_seed(store, 0)
        waiting.join(60)
        assert agent.policy.version == 0


def test_the_loader_thread_loads_each_new_version(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 0)
    agent = make_agent(synchronous=False, deadline_s=60.0)
    agent.reset()
    for seed in range(1, 4):
        publish_seed(store, seed)
        until(lambda seed=seed: agent.adopt().version == seed)
    assert agent._manager.engines_alive() == 3


def test_an_agent_can_be_closed_twice(store: LocalPolicyStore) -> None:
    with Agent(store, AgentOptions(num_envs=1)) as agent:
        agent.close()
    assert not any("loader" in thread.name for thread in threading.enumerate())


def test_an_agent_leaves_the_switch_interval_of_its_process_alone(store: LocalPolicyStore) -> None:
    publish_seed(store, 0)
    before_s = sys.getswitchinterval()
    with Agent(store) as agent:
        assert sys.getswitchinterval() == before_s
        agent.reset()
        agent.act(OBSERVATIONS[0])
        assert sys.getswitchinterval() == before_s
    assert sys.getswitchinterval() == before_s


def test_an_observation_of_another_shape_is_refused(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 0)
    agent = make_agent(num_envs=None)
    for observation in (OBSERVATIONS, OBSERVATIONS[0, :3], OBSERVATIONS[0, 0]):
        with pytest.raises(SignatureMismatch, match=r"expected float32 \(1, 4\)"):
            agent.act(observation)
    assert agent.policy.version == 0


def test_a_fixed_order_of_engines_when_synchronous(store: LocalPolicyStore, make_agent: MakeAgent) -> None:
    publish_seed(store, 0, onnx=True)
    methods = []
    for engine in ("auto", "llvm", "onnx", "torchscript"):
        agent = make_agent(engine=engine)
        agent.reset()
        methods.append(agent.policy.engine_name)
    assert methods == ["llvm", "llvm", "onnx", "torchscript"]
