from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actor.environments.environment_creation import make_environments
from actor.environments.environments import Environments
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from shared.errors import ConfigurationError, EnvironmentFailed
from shared.policy.signature import PolicySignature, acting_signature
from shared.rollouts.rollout import EpisodeEnds, Rollout, RolloutLayout
from shared.rollouts.rollout_codec import decode_rollout, encode_rollout
from tests.support.counting_environment import LENGTHS

COUNTING = "tests.support.counting_environment:Counting-v0"
STATE = ((("memory",), (1,)),)


@pytest.fixture(params=AutoresetMode)
def mode(request: pytest.FixtureRequest) -> AutoresetMode:
    return AutoresetMode(request.param)


@dataclass
class _Decision:
    action: np.ndarray
    env_action: np.ndarray
    log_prob: np.ndarray | None


def _policy(signature: PolicySignature, version: int) -> LoadedPolicy:
    return LoadedPolicy(version, f"{version:064x}", signature, None, "onnx", b"")  # type: ignore[arg-type]


class _ScriptedAgent:
    """An agent that acts with 0 and adopts published versions; its state counts the steps of each row's episode."""

    def __init__(self, signature: PolicySignature, num_envs: int) -> None:
        self.signature = signature
        self.policy = _policy(signature, 0)
        self.ready: LoadedPolicy | None = None
        self.state: tuple[np.ndarray, ...] = tuple(np.zeros((num_envs, 1), np.float32) for _ in signature.state)
        self.noise_seed = 5
        self.noise_offset = 0
        self.seen: list[list[np.ndarray]] = []
        self.masks: list[np.ndarray | None] = []
        self.fails_at: int | None = None

    def publish(self, version: int) -> None:
        self.ready = _policy(self.signature, version)

    def adopt(self) -> LoadedPolicy:
        self.policy, self.ready = self.ready or self.policy, None
        return self.policy

    def reset(self, rows: np.ndarray | None = None) -> None:
        if rows is None:
            self.adopt()
        for leaf in self.state:
            leaf[slice(None) if rows is None else rows] = 0

    def decide(self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None) -> _Decision:
        if self.noise_offset == self.fails_at:
            self.policy = _policy(self.signature, 99)
        self.noise_offset += 1
        self.seen.append([leaf.copy() for leaf in observation])
        self.masks.append(None if action_mask is None else action_mask.copy())
        for leaf in self.state:
            np.add(leaf, 1, out=leaf)
        action = np.zeros(observation[0].shape[0], np.int64)
        return _Decision(action, action, np.full(action.shape, -self.noise_offset, np.float32))


class _Sender:
    """A sender that keeps the rollouts."""

    def __init__(self) -> None:
        self.taken: list[Rollout] = []
        self.room = [False, True] * 100
        self.learner_alive = True
        self.stop_requested = False
        self.wanted_version: int | None = None

    def wait_for_room(self, timeout_s: float) -> bool:
        return self.room.pop(0)

    def send(self, rollout: Rollout) -> bool:
        self.taken.append(rollout)
        return True

    def close(self) -> None:
        pass


def _worker(
    environments: Environments,
    *,
    length: int = 7,
    recurrent: bool = False,
    sender: _Sender | None = None,
    masked: bool = False,
    seed: int = 3,
    cut: bool = False,
) -> tuple[RolloutWorker, _ScriptedAgent]:
    signature = acting_signature(
        environments.leaves, environments.action, state=STATE if recurrent else (), masked=masked
    )
    agent = _ScriptedAgent(signature, environments.num_envs)
    layout = RolloutLayout(signature, length)
    options = RolloutOptions(run_id="run", actor_id="actor-0", seed=seed, cut_at_episode_end=cut)
    return RolloutWorker(agent, environments, layout, options, sender), agent


def _collect(worker: RolloutWorker) -> Rollout:
    rollout = worker.collect()
    assert rollout is not None
    return rollout


def _stitch(rollouts: list[Rollout], name: str) -> np.ndarray:
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def test_every_transition_is_true_to_the_environment(mode: AutoresetMode) -> None:
    """The observations contain their episode and step, with which every field is compared."""
    with make_environments(COUNTING, 3, autoreset=mode) as environments:
        worker, _ = _worker(environments)
        rollouts = [_collect(worker) for _ in range(6)]
    for rollout, successor in pairwise(rollouts):
        np.testing.assert_array_equal(rollout.observation[0][-1], successor.observation[0][0])
        np.testing.assert_array_equal(rollout.begins_episode[-1], successor.begins_episode[0])
    assert rollouts[0].begins_episode[0].all()
    for rollout in rollouts:
        observation = rollout.observation[0]
        assert observation.dtype == np.float32
        episode, steps = observation[..., 0], observation[..., 1]
        lengths = np.take(LENGTHS, episode.astype(int), mode="wrap")
        ended = rollout.terminated | rollout.truncated
        np.testing.assert_array_equal(rollout.begins_episode, steps == 0)
        np.testing.assert_array_equal(rollout.valid, (steps < lengths)[:-1])
        np.testing.assert_array_equal(ended, rollout.valid & (steps + 1 == lengths)[:-1])
        np.testing.assert_array_equal(rollout.truncated, ended & (episode[:-1] % 2 == 0))
        np.testing.assert_array_equal(rollout.reward, np.where(rollout.valid, steps[:-1] + 1, 0))
        after = observation[1:].copy()
        if mode is AutoresetMode.NEXT_STEP:
            assert len(rollout.final_index) == 0
        else:
            assert rollout.valid.all()
            np.testing.assert_array_equal(rollout.final_index, np.argwhere(ended))
            after[tuple(rollout.final_index.T)] = rollout.final_observation[0]
        expected = observation[:-1] + np.array([0, 1])
        np.testing.assert_array_equal(after[rollout.valid], expected[rollout.valid])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_rollouts_pass_the_layouts_check_and_the_wire(mode: AutoresetMode, recurrent: bool, nested: bool) -> None:
    kwargs = {"nested": nested, "masked": True}
    with make_environments(COUNTING, 3, env_kwargs=kwargs, autoreset=mode) as environments:
        worker, agent = _worker(environments, recurrent=recurrent, masked=True)
        layout = RolloutLayout(agent.signature, 7)
        for _ in range(4):
            rollout = _collect(worker)
            layout.check(rollout)
            again = decode_rollout([bytes(frame) for frame in encode_rollout(rollout)], layout)
            assert again.header == rollout.header


def test_recurrent_state_begins_with_every_episode_and_goes_on_between_rollouts(mode: AutoresetMode) -> None:
    with make_environments(COUNTING, 3, autoreset=mode) as environments:
        worker, _ = _worker(environments, recurrent=True, length=5)
        for _ in range(6):
            rollout = _collect(worker)
            # The scripted state counts the steps of the episode, as the observation does.
            np.testing.assert_array_equal(rollout.state[0][:, 0], rollout.observation[0][0, :, 1])


def test_the_recorded_observations_are_those_the_agent_acted_on() -> None:
    with make_environments(COUNTING, 3, env_kwargs={"nested": True, "masked": True}) as environments:
        worker, agent = _worker(environments, masked=True)
        rollouts = [_collect(worker) for _ in range(3)]
    for i in range(3):
        seen = np.stack([step[i] for step in agent.seen])
        np.testing.assert_array_equal(seen, np.concatenate([rollout.observation[i][:-1] for rollout in rollouts]))
    np.testing.assert_array_equal(
        np.stack([mask for mask in agent.masks if mask is not None]), _stitch(rollouts, "action_mask")
    )
    np.testing.assert_array_equal(_stitch(rollouts, "behaviour_log_prob")[:, 0], -np.arange(1, 22))


def test_a_rollout_is_not_written_to_by_the_next_one() -> None:
    with make_environments(COUNTING, 2) as environments:
        worker, _ = _worker(environments)
        first = _collect(worker)
        frames = [bytes(frame) for frame in encode_rollout(first)]
        _collect(worker)
        assert [bytes(frame) for frame in encode_rollout(first)] == frames


def test_each_rollout_is_stamped_with_the_one_version_that_acted() -> None:
    with make_environments(COUNTING, 2) as environments:
        worker, agent = _worker(environments)
        headers = []
        for version in (4, 4, 6):
            agent.publish(version)
            headers.append(_collect(worker).header)
    assert [header.version for header in headers] == [4, 4, 6]
    assert headers[0].digest == headers[1].digest != headers[2].digest
    assert [header.noise_offset for header in headers] == [0, 7, 14]
    assert {header.noise_seed for header in headers} == {5}


def test_finished_episodes_name_all_versions_that_acted_in_them() -> None:
    with make_environments(COUNTING, 1, autoreset=AutoresetMode.SAME_STEP) as environments:
        worker, agent = _worker(environments, length=2, seed=0)
        finished = []
        digests = {}
        for version in (1, 2, 2, 5, 7, 8):
            agent.publish(version)
            rollout = _collect(worker)
            digests[version] = rollout.header.digest
            ends = [(end.episode_return, end.length, end.version) for end in worker.finished]
            assert rollout.header.episodes == EpisodeEnds(*map(list, zip(*ends, strict=True)))
            assert [worker.finished[i] for i in range(len(ends))] == worker.finished[:] == list(worker.finished)
            finished += worker.finished
    acted = [version for version in (1, 2, 2, 5, 7, 8) for _ in range(2)]
    first = LENGTHS.index(finished[0].length)
    start = 0
    for i, end in enumerate(finished):
        assert end.length == LENGTHS[(first + i) % 4]
        assert end.episode_return == end.length * (end.length + 1) / 2
        versions = acted[start : start + end.length]
        assert end.version == versions[0]
        assert end.versions == tuple(dict.fromkeys(versions))
        assert end.digest == digests[versions[0]]
        start += end.length
    assert len(finished) >= 4


@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_returns_and_lengths_do_not_depend_on_how_rollouts_are_cut(mode: AutoresetMode, length: int) -> None:
    with make_environments(COUNTING, 4, autoreset=mode) as environments:
        worker, _ = _worker(environments, length=length)
        finished = []
        for _ in range(80 // length):
            _collect(worker)
            finished += worker.finished
    assert all(end.episode_return == end.length * (end.length + 1) / 2 for end in finished)
    lengths = [end.length for end in finished]
    resets = len(lengths) if mode is AutoresetMode.NEXT_STEP else 0
    assert 80 * 4 - 4 * max(LENGTHS) - 4 <= sum(lengths) + resets <= 80 * 4
    assert set(lengths) == set(LENGTHS)


def test_only_whole_rollouts_of_one_version_and_the_runs_signature_are_sent() -> None:
    sender = _Sender()
    with make_environments(COUNTING, 2) as environments:
        worker, agent = _worker(environments, sender=sender)
        reported: list[int] = []

        def report() -> None:
            reported.append(agent.policy.version)
            if len(reported) == 1:
                agent.fails_at = agent.noise_offset + 3  # the second rollout begins with 0 and ends with 99
            if len(reported) == 3:
                agent.signature = acting_signature(environments.leaves, environments.action, state=STATE)
                agent.state = (np.zeros((2, 1), np.float32),)
                agent.publish(100)

        worker.run(lambda: len(reported) == 4, report)
    assert reported == [0, 99, 99, 100]
    assert [rollout.header.version for rollout in sender.taken] == [0, 99]
    assert len(sender.room) == 192  # two calls for each rollout: no step before there is room


def test_an_interrupt_drops_the_current_rollout() -> None:
    sender = _Sender()
    with make_environments(COUNTING, 1) as environments:
        worker, agent = _worker(environments, sender=sender)
        worker.run(lambda: False, worker.interrupt)
        assert len(sender.taken) == 1
        assert worker.collect() is None
        assert agent.noise_offset == 8


def test_an_environment_that_raises_is_reported_with_the_number_of_its_step() -> None:
    faulty = "tests.support.counting_environment:Faulty-v0"
    with make_environments(faulty, 2, env_kwargs={"fault": "raise"}) as environments:
        signature = acting_signature(environments.leaves, environments.action)
        layout = RolloutLayout(signature, 1)
        options = RolloutOptions(run_id="run", actor_id="actor", seed=0)
        worker = RolloutWorker(_ScriptedAgent(signature, 2), environments, layout, options)
        worker.collect()
        with pytest.raises(EnvironmentFailed, match=r"raised Unsendable: the motor is hot, in step 2$"):
            worker.collect()


def test_rollouts_that_are_cut_at_episode_ends_begin_each_episode_with_the_newest_version() -> None:
    with make_environments(COUNTING, 1) as environments:
        worker, agent = _worker(environments, length=3, cut=True, recurrent=True)
        finished = []
        for version in range(8):
            agent.publish(version)
            rollout = _collect(worker)
            RolloutLayout(agent.signature, rollout.length).check(rollout)
            assert rollout.begins_episode[0, 0] == (rollout.observation[0][0, 0, 1] == 0)
            finished += worker.finished
    assert {end.length: len(end.versions) for end in finished} == {1: 1, 2: 1, 3: 1, 4: 2}


def test_an_epoch_depends_on_the_seed_and_its_number_alone() -> None:
    def epochs(numbers: Sequence[int], seed: int = 3) -> list[Rollout]:
        with make_environments("CartPole-v1", 4) as environments:
            worker, _ = _worker(environments, seed=seed)
            rollouts = []
            for number in numbers:
                worker.begin_epoch(number)
                rollouts += [_collect(worker), _collect(worker)]
            return rollouts

    uninterrupted, resumed = epochs([0, 1, 2]), epochs([2])
    for one, other in zip(uninterrupted[-2:], resumed, strict=True):
        np.testing.assert_array_equal(one.observation[0], other.observation[0])
        np.testing.assert_array_equal(one.begins_episode, other.begins_episode)
        assert one.header.noise_offset == other.header.noise_offset
    assert not np.array_equal(uninterrupted[0].observation[0], uninterrupted[2].observation[0])
    assert not np.array_equal(epochs([0], seed=4)[0].observation[0], uninterrupted[0].observation[0])


def test_a_policy_that_needs_masks_is_refused_where_there_are_none() -> None:
    with make_environments(COUNTING, 2) as environments:
        worker, _ = _worker(environments, masked=True)
        with pytest.raises(ConfigurationError, match="needs action masks"):
            worker.collect()
