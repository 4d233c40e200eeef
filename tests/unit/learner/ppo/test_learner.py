"""The learner is deterministic and resumable, learns, and ignores invalid steps."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from shared.errors import CheckpointError, UpdateNotFinite
from shared.policy.spaces import action_spec, observation_leaves
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.rollouts.value_checks import log_prob_bounds
from tests.support.acted_rollouts import act_rollout
from tests.support.rollout_examples import header

SMALL = LearnerConfig(
    normalize_observations=False,
    normalize_rewards=False,
    shared_trunk=True,
    hidden_sizes=(8,),
    recurrent_size=6,
    epochs=2,
    minibatch_size=8,
    entropy_coefficient=0.01,
)
CONFIGS = {
    "shared": SMALL,
    "separate": dataclasses.replace(SMALL, shared_trunk=False, value_clip=0.2, activation="relu"),
    "normalizing": dataclasses.replace(SMALL, normalize_observations=True, normalize_rewards=True, target_kl=10.0),
    "lstm": dataclasses.replace(SMALL, network="lstm"),
    "gru": dataclasses.replace(SMALL, network="gru"),
    "normalizing lstm": dataclasses.replace(SMALL, network="lstm", normalize_observations=True, normalize_rewards=True),
}
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict({"camera": spaces.Box(0, 255, (8, 8, 1), np.uint8), "gear": spaces.Discrete(3), "speed": VECTOR})
ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))]


def make_learner(
    config: LearnerConfig = SMALL,
    action: spaces.Space[Any] = ACTIONS[0],
    observation: spaces.Space[Any] = VECTOR,
    masked: bool = False,
    seed: int = 0,
) -> Learner:
    return Learner(observation_leaves(observation), action_spec(action), config, masked=masked, seed=seed)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    ("observation", "next_step"), [(VECTOR, False), (NESTED, True)], ids=["vector, same-step", "nested, next-step"]
)
@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_policy_learns_something_finite(
    config: LearnerConfig, action: spaces.Space[Any], observation: spaces.Space[Any], next_step: bool
) -> None:
    masked = isinstance(action, spaces.Discrete | spaces.MultiDiscrete)
    learner = make_learner(config, action, observation, masked)
    before = weights(learner)
    rollouts = [act_rollout(learner.policy, batch_size=width, seed=width, next_step=next_step) for width in (2, 3)]
    metrics = learner.update(rollouts)
    assert all(np.isfinite(number) for number in dataclasses.astuple(metrics))
    assert metrics.gradient_steps > 0
    assert metrics.env_steps == sum(rollout.env_steps for rollout in rollouts)
    for name, tensor in weights(learner).items():
        assert torch.isfinite(tensor).all(), name
    changed = [name for name, tensor in weights(learner).items() if not torch.equal(tensor, before[name])]
    assert changed


@pytest.mark.parametrize("config", [CONFIGS["shared"], CONFIGS["lstm"], CONFIGS["gru"]], ids=["mlp", "lstm", "gru"])
def test_without_lag_the_learner_agrees_with_the_acting_policy(config: LearnerConfig) -> None:
    """For a recurrent network that includes state that was recorded, carried, and cleared where an episode began."""
    learner = make_learner(config)
    metrics = learner.update(
        [act_rollout(learner.policy, length=12, next_step=next_step) for next_step in (False, True)]
    )
    assert metrics.mean_rho == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_seed_gives_the_same_weights_and_so_does_a_resumed_run(config: LearnerConfig) -> None:
    rollouts = [act_rollout(make_learner(config).policy, seed=i, next_step=bool(i % 2)) for i in range(4)]
    one, other = make_learner(config), make_learner(config)
    for learner in (one, other):
        learner.update(rollouts[:2])
    assert_equal(weights(one), weights(other))
    resumed = make_learner(config, seed=99)
    resumed.load_state_dict(one.state_dict())
    for learner in (one, resumed):
        learner.update(rollouts[2:])
    assert_equal(weights(one), weights(resumed))
    assert not all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def test_a_state_is_not_changed_by_further_learning() -> None:
    learner = make_learner(CONFIGS["normalizing"])
    rollout = act_rollout(learner.policy)
    learner.update([rollout])
    state = learner.state_dict()
    learner.update([rollout])
    again = make_learner(CONFIGS["normalizing"])
    again.load_state_dict(state)
    again.update([rollout])
    assert_equal(weights(again), weights(learner))


def test_a_state_of_another_policy_is_refused() -> None:
    state = make_learner(action=ACTIONS[3]).state_dict()
    with pytest.raises(CheckpointError, match="resume with the flags"):
        make_learner().load_state_dict(state)


def test_a_state_of_other_sizes_is_refused_in_one_sentence() -> None:
    state = make_learner(dataclasses.replace(SMALL, hidden_sizes=(32, 32, 32))).state_dict()
    with pytest.raises(CheckpointError, match=r"^resume with the flags") as caught:
        make_learner().load_state_dict(state)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_nothing_is_learned_from_an_autoreset_step(config: LearnerConfig) -> None:
    found = []
    for filler in (0.0, 50.0):
        learner = make_learner(config)
        rollout = act_rollout(learner.policy, length=12, next_step=True)
        assert not rollout.valid.all()
        rollout.reward[~rollout.valid] = filler
        rollout.action[~rollout.valid] = int(filler) % 3
        rollout.behaviour_log_prob[~rollout.valid] = -filler
        learner.update([rollout])
        found.append(weights(learner))
    assert_equal(*found)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_truncated_step_bootstraps_from_its_final_observation(config: LearnerConfig) -> None:
    found = []
    for shift in (0.0, 0.5):
        learner = make_learner(config)
        rollout = act_rollout(learner.policy, length=12)
        truncated = rollout.truncated[tuple(rollout.final_index.T)]
        assert truncated.any()
        assert not truncated.all()
        rollout.final_observation[0][truncated if shift else ~truncated] += 0.5
        learner.update([rollout])
        found.append(weights(learner))
    reference = make_learner(config)
    reference.update([act_rollout(reference.policy, length=12)])
    assert_equal(found[0], weights(reference))  # the last observation of a terminated episode is nobody's future
    with pytest.raises(AssertionError):
        assert_equal(found[1], weights(reference))


def test_a_batch_without_a_valid_step_changes_nothing() -> None:
    for config in CONFIGS.values():
        learner = make_learner(config)
        rollout = act_rollout(learner.policy)
        rollout.valid[:] = False
        before = weights(learner)
        assert learner.update([rollout]).gradient_steps == 0
        assert_equal(weights(learner), before)


def test_an_update_ends_early_on_request() -> None:
    learner = make_learner()
    answers = iter([False, False, True])
    metrics = learner.update([act_rollout(learner.policy, batch_size=8)], should_stop=lambda: next(answers))
    assert metrics.gradient_steps == 2


def test_epochs_end_at_the_target_divergence() -> None:
    config = dataclasses.replace(SMALL, learning_rate=0.05, epochs=20, target_kl=0.05)
    learner = make_learner(config)
    metrics = learner.update([act_rollout(learner.policy, batch_size=8)])
    assert 0 < metrics.gradient_steps < 20 * 6


def test_rates_fall_with_the_steps_learned_from() -> None:
    config = dataclasses.replace(SMALL, anneal_steps=36, final_fraction=0.5, learning_rate=0.01)
    learner = make_learner(config)
    rollout = act_rollout(learner.policy, length=6, batch_size=3)
    found = [learner.update([rollout]).learning_rate for _ in range(4)]
    assert found == pytest.approx([0.01, 0.0075, 0.005, 0.005])


@pytest.mark.parametrize("config", [CONFIGS["normalizing"], CONFIGS["normalizing lstm"]], ids=["mlp", "lstm"])
def test_values_mean_the_same_when_their_unit_changes(config: LearnerConfig) -> None:
    learner = make_learner(dataclasses.replace(config, learning_rate=1e-12))
    rollout = act_rollout(learner.policy, batch_size=4)
    learner.update([rollout])  # the observations' moments have settled: it sees the same ones again
    before = learner.policy(inputs_of(learner, rollout))
    rollout.reward *= 1000
    learner.update([rollout])
    assert learner.policy.value_scale > 2
    value = learner.signature.output_position("value")
    torch.testing.assert_close(learner.policy(inputs_of(learner, rollout))[value], before[value], rtol=1e-3, atol=1e-5)


def inputs_of(learner: Learner, rollout: Rollout) -> list[torch.Tensor]:
    leaves = [torch.from_numpy(leaf[0]) for leaf in rollout.observation]
    noise = torch.zeros(rollout.batch_size, *learner.signature.action.noise_shape)
    return [*leaves, *(torch.from_numpy(leaf) for leaf in rollout.state), noise]


def test_observations_are_normalized_inside_the_policy() -> None:
    learner = make_learner(CONFIGS["normalizing"])
    rollout = act_rollout(learner.policy, length=30, batch_size=8)
    rollout.observation[0][:] = rollout.observation[0] * 100 + 7
    learner.update([rollout])
    with torch.no_grad():
        features = learner.policy.encoder([torch.from_numpy(rollout.observation[0][:-1].reshape(-1, 3))])
    torch.testing.assert_close(features.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def contextual_bandit(learner: Learner, rng: np.random.Generator, masked: bool) -> tuple[Rollout, float]:
    """The best of three actions is the one that the observation points at; episodes of one step."""
    layout = RolloutLayout(learner.signature, 8)
    rollout = layout.allocate(16, header())
    best = rng.integers(0, 3, (9, 16))
    rollout.observation[0][:] = np.eye(3, dtype=np.float32)[best]
    for t in range(8):
        inputs = [torch.from_numpy(rollout.observation[0][t])]
        if rollout.action_mask is not None:
            rollout.action_mask[t] = rng.random((16, 3)) < 0.5
            np.put_along_axis(rollout.action_mask[t], best[t][:, None], True, 1)
            inputs.append(torch.from_numpy(rollout.action_mask[t]))
        noise = torch.from_numpy(rng.gumbel(size=(16, 3)).astype(np.float32))
        with torch.no_grad():
            action, log_prob, _ = learner.policy([*inputs, noise])
        rollout.action[t], rollout.behaviour_log_prob[t] = action.numpy(), log_prob.numpy()
    rollout.reward[:] = rollout.action == best[:-1]
    rollout.terminated[:] = True
    rollout.begins_episode[:] = True
    assert not masked or rollout.action_mask is not None
    return rollout, float(rollout.reward.mean())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lag", [0, 2])
def test_it_learns_also_from_policies_that_are_two_versions_old(masked: bool, lag: int) -> None:
    learner = make_learner(dataclasses.replace(SMALL, learning_rate=0.01, minibatch_size=64), masked=masked)
    rng = np.random.default_rng(0)
    waiting: list[Rollout] = []
    returns: Sequence[float] = []
    for _ in range(40):
        rollout, mean_reward = contextual_bandit(learner, rng, masked)
        waiting.append(rollout)
        returns = [*returns, mean_reward]
        if len(waiting) > lag:
            learner.update([waiting.pop(0)])
    assert np.mean(returns[:2]) < 0.8
    assert np.mean(returns[-5:]) > 0.95


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, dict):
        return all(_same(one[name], other[name]) for name in one)  # type: ignore[index]
    return one == other


def _without_env_steps(learner: Learner) -> dict[str, object]:
    return {name: value for name, value in learner.state_dict().items() if name != "env_steps"}


PATHS = {
    **CONFIGS,
    "autograd": dataclasses.replace(SMALL, normalize_rewards=True),
    "no clipping": dataclasses.replace(CONFIGS["normalizing"], max_grad_norm=None),
}
FATAL = {
    "reward": lambda rollout: rollout.reward.fill(3e38),
    "log-probability": lambda rollout: rollout.behaviour_log_prob.fill(np.nan),
    "observation": lambda rollout: rollout.observation[-1].fill(np.nan),
}


@pytest.mark.parametrize("poison", FATAL.values(), ids=FATAL)
@pytest.mark.parametrize("config", PATHS.values(), ids=PATHS)
def test_an_update_that_is_not_finite_leaves_the_learner_as_it_was(
    config: LearnerConfig, poison: Callable[[Rollout], None]
) -> None:
    observation = NESTED if config is PATHS["autograd"] else VECTOR  # images have no hand-written gradients
    learner, twin = make_learner(config, observation=observation), make_learner(config, observation=observation)
    rollouts = [act_rollout(learner.policy, seed=seed) for seed in range(3)]
    for each in (learner, twin):
        each.update(rollouts[:1])
    before = _without_env_steps(learner)
    poison(rollouts[1])
    with pytest.raises(UpdateNotFinite):
        learner.update(rollouts[1:2])
    assert _same(_without_env_steps(learner), before)
    for each in (learner, twin):
        each.update(rollouts[2:])
    assert_equal(weights(learner), weights(twin))


@pytest.mark.parametrize("config", PATHS.values(), ids=PATHS)
def test_parameters_that_overflow_are_an_update_that_is_not_finite(config: LearnerConfig) -> None:
    learner = make_learner(dataclasses.replace(config, learning_rate=1e30))
    before = _without_env_steps(learner)
    with pytest.raises(UpdateNotFinite):
        learner.update([act_rollout(learner.policy, length=12, batch_size=6)])
    assert _same(_without_env_steps(learner), before)


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("log_prob", ["lowest", "highest"])
@pytest.mark.parametrize("config", [CONFIGS["shared"], CONFIGS["normalizing lstm"]], ids=["mlp", "lstm"])
def test_any_log_probability_within_its_bounds_gives_a_finite_update(
    config: LearnerConfig, action: spaces.Space[Any], log_prob: str
) -> None:
    learner = make_learner(config, action)
    rollout = act_rollout(learner.policy)
    bounds = log_prob_bounds(learner.signature.action)
    rollout.behaviour_log_prob[1] = bounds[log_prob == "highest"]
    RolloutLayout(learner.signature, rollout.length).check(rollout)
    assert learner.update([rollout]).gradient_steps > 0


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_one_reward_at_the_limit_gives_a_finite_update(config: LearnerConfig) -> None:
    learner = make_learner(config)
    rollout = act_rollout(learner.policy)
    rollout.reward[2, 1] = -config.reward_limit
    RolloutLayout(learner.signature, rollout.length, config.reward_limit).check(rollout)
    assert learner.update([rollout]).gradient_steps > 0
