"""``from_sb3``: distributions, values and state of the adapted policy, and refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import Tensor

from learner.sb3.adapter import SB3Policy, from_sb3, refresh
from scripts.conformance.agreement import sample_observations, stir
from scripts.conformance.sb3_cases import BOX, DISCRETE, IMAGE, NESTED, VECTOR, AnySpaces, ModelCase
from shared.errors import ConfigurationError, ExportError
from shared.policy.noise import NoiseStream
from shared.policy.probe import make_inputs, run_policy

ROWS = 32
SMALL = {"buffer_size": 16}


def answer(policy: SB3Policy, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name."""
    outputs = run_policy(policy.eval(), policy.signature, inputs)
    return dict(zip(policy.signature.output_names, outputs, strict=True))


def inputs_of(policy: SB3Policy, rows: int = ROWS) -> list[np.ndarray]:
    return make_inputs(policy.signature, rows, seed=1)


def adapted(*case: Any, **options: Any) -> tuple[Any, SB3Policy]:
    model = ModelCase(*case, **options).make()
    return model, from_sb3(model)


def assert_near(found: np.ndarray, expected: Any) -> None:
    expected = expected.detach().numpy() if isinstance(expected, Tensor) else expected
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        ModelCase(PPO, "MlpPolicy", VECTOR, DISCRETE),
        ModelCase(A2C, "MlpPolicy", VECTOR, BOX),
        ModelCase(PPO, "MlpPolicy", VECTOR, spaces.MultiDiscrete([3, 2])),
        ModelCase(PPO, "MlpPolicy", VECTOR, spaces.MultiBinary(3)),
        ModelCase(PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True}),
        ModelCase(PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ModelCase(
            PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True, "policy_kwargs": {"full_std": False, "use_expln": True}}
        ),
        ModelCase(PPO, "CnnPolicy", IMAGE, DISCRETE, {"policy_kwargs": {"share_features_extractor": False}}),
    ],
    ids=lambda case: case.name,
)
def test_log_prob_and_value_are_those_of_the_model(case: ModelCase) -> None:
    model = case.make()
    policy = from_sb3(model)
    inputs = inputs_of(policy, 128)
    found = answer(policy, inputs)
    observation, _ = model.policy.obs_to_tensor(
        np.moveaxis(inputs[0], -1, 1) if case.observation is IMAGE else inputs[0]
    )
    action = torch.from_numpy(found["action"])
    value, log_prob, _ = model.policy.evaluate_actions(
        observation, action.float() if isinstance(case.action, spaces.MultiBinary) else action
    )
    assert_near(found["value"], value.flatten())
    near, expected = found["log_prob"], log_prob.detach().numpy()
    if model.policy.squash_output:  # the model inverts tanh, which rounding allows only where it is far from 1
        far = (action.abs() < 0.9).all(1).numpy()
        assert far.sum() > 3
        np.testing.assert_allclose(near[far], expected[far], rtol=1e-4, atol=1e-4)
    else:
        assert_near(near, expected)


def test_normal_noise_is_scaled_as_the_model_scales_its_own() -> None:
    model, policy = adapted(PPO, "MlpPolicy", VECTOR, BOX)
    observation, noise = inputs_of(policy)
    distribution = model.policy.get_distribution(torch.from_numpy(observation)).distribution
    found = answer(policy, [observation, noise])
    expected = distribution.mean + distribution.stddev * torch.from_numpy(noise)
    assert_near(found["action"], expected)
    assert_near(found["env_action"], expected.detach().numpy().clip(BOX.low, BOX.high))


def test_a_squashed_action_has_its_own_log_prob_and_is_scaled_to_the_bounds() -> None:
    model, policy = adapted(SAC, "MlpPolicy", VECTOR, BOX, SMALL)
    observation, noise = inputs_of(policy)
    actor = model.policy.actor
    mean, log_std, _ = actor.get_action_dist_params(torch.from_numpy(observation))
    gaussian = mean + log_std.exp() * torch.from_numpy(noise)
    expected = torch.tanh(gaussian)
    log_prob = actor.action_dist.proba_distribution(mean, log_std).log_prob(expected, gaussian)
    found = answer(policy, [observation, noise])
    assert policy.signature.output_names == ("action", "env_action", "log_prob")
    assert_near(found["action"], expected)
    assert_near(found["env_action"], model.policy.unscale_action(expected.detach().numpy()))
    np.testing.assert_allclose(found["log_prob"], log_prob.detach().numpy(), rtol=1e-3, atol=1e-3)


def test_a_deterministic_policy_takes_no_noise_and_estimates_nothing() -> None:
    model, policy = adapted(TD3, "MlpPolicy", VECTOR, BOX, SMALL)
    assert policy.signature.input_names == ("observation",)
    assert policy.signature.output_names == ("action", "env_action")
    (observation,) = inputs_of(policy)
    assert_near(answer(policy, [observation])["env_action"], model.predict(observation)[0])


@pytest.mark.parametrize("action", [DISCRETE, spaces.MultiBinary(3)], ids=["gumbel", "logistic"])
def test_choices_have_the_models_probabilities(action: spaces.Space[Any]) -> None:
    model, policy = adapted(PPO, "MlpPolicy", VECTOR, action)
    rows = 20_000
    observation = np.repeat(inputs_of(policy, 1)[0], rows, axis=0)
    noise = NoiseStream(policy.signature.action, rows, seed=0).at(0)
    found = answer(policy, [observation, noise])["action"]
    expected = model.policy.get_distribution(torch.from_numpy(observation[:1])).distribution.probs[0].detach().numpy()
    often = found.mean(axis=0) if found.ndim == 2 else np.bincount(found, minlength=len(expected)) / rows
    np.testing.assert_allclose(often, expected, atol=5 * 0.5 / rows**0.5)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dqn_explores_as_often_as_its_exploration_rate_says(rate: float) -> None:
    model = ModelCase(DQN, "MlpPolicy", VECTOR, DISCRETE, SMALL).make()
    model.exploration_rate = rate
    policy = from_sb3(model)
    rows = 20_000
    observation = np.repeat(inputs_of(policy, 1)[0], rows, axis=0)
    noise = NoiseStream(policy.signature.action, rows, seed=0).at(0)
    found = answer(policy, [observation, noise])
    expected = np.full(4, rate / 4)
    expected[int(model.predict(observation[0], deterministic=True)[0])] += 1 - rate
    np.testing.assert_allclose(np.bincount(found["action"], minlength=4) / rows, expected, atol=5 * 0.5 / rows**0.5)
    assert_near(found["log_prob"], np.log(expected[found["action"]]))


def test_masks_exclude_the_same_actions_as_the_model() -> None:
    model, policy = adapted(MaskablePPO, "MlpPolicy", VECTOR, spaces.MultiDiscrete([3, 2]))
    observation, mask, noise = inputs_of(policy)
    found = answer(policy, [observation, mask, noise])
    value, log_prob, _ = model.policy.evaluate_actions(
        torch.from_numpy(observation), torch.from_numpy(found["action"]), torch.from_numpy(mask)
    )
    assert_near(found["log_prob"], log_prob)
    assert_near(found["value"], value.flatten())


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        ({"n_lstm_layers": 2}, ["actor.h", "actor.c", "critic.h", "critic.c"]),
        ({"shared_lstm": True, "enable_critic_lstm": False}, ["actor.h", "actor.c"]),
        ({"enable_critic_lstm": False}, ["actor.h", "actor.c"]),
        ({"lstm_kwargs": {"bias": False}, "lstm_hidden_size": 24}, ["actor.h", "actor.c", "critic.h", "critic.c"]),
    ],
    ids=["two LSTMs of two layers", "shared LSTM", "critic without LSTM", "no biases"],
)
def test_recurrent_state_value_and_log_prob_are_those_of_the_model(settings: dict[str, Any], state: list[str]) -> None:
    model, policy = adapted(RecurrentPPO, "MlpLstmPolicy", VECTOR, DISCRETE, {"policy_kwargs": settings})
    assert [spec.name for spec in policy.signature.state] == [f"state.{name}" for name in state]
    inputs = inputs_of(policy)
    inputs[-1] = np.zeros_like(inputs[-1])
    found = answer(policy, inputs)
    own = [torch.from_numpy(array).transpose(0, 1).contiguous() for array in inputs[1:-1]]
    states = RNNStates((own[0], own[1]), (own[-2], own[-1]))
    with torch.no_grad():
        action, value, log_prob, after = model.policy.forward(
            torch.from_numpy(inputs[0]), states, torch.zeros(ROWS), deterministic=True
        )
    assert np.array_equal(found["action"], action.numpy())
    assert_near(found["value"], value.flatten())
    assert_near(found["log_prob"], log_prob)
    for name, expected in zip(state, [*after.pi, *after.vf], strict=False):
        assert_near(found[f"state.{name}"], expected.transpose(0, 1))


@pytest.mark.parametrize("case", [IMAGE, NESTED], ids=["image", "nested"])
def test_images_have_the_environments_layout(case: spaces.Space[Any]) -> None:
    name = "CnnPolicy" if case is IMAGE else "MultiInputPolicy"
    model, policy = adapted(DQN, name, case, DISCRETE, SMALL)
    shapes = [leaf.shape for leaf in policy.signature.observation]
    assert IMAGE.shape in shapes
    # Without its environment a model only knows what its network reads; the environment's space can be told.
    alone = from_sb3(model.policy)
    assert IMAGE.shape not in [leaf.shape for leaf in alone.signature.observation]
    assert from_sb3(model.policy, observation_space=case).signature == policy.signature


def test_statistics_of_vec_normalize_are_copied_and_refreshed() -> None:
    model = ModelCase(PPO, "MultiInputPolicy", NESTED, BOX, normalized=("speed",)).make()
    statistics = model.get_vec_normalize_env()
    policy = from_sb3(model)
    observation = sample_observations(NESTED, ROWS, np.random.default_rng(0))
    inputs = [observation[leaf.path[0]].astype(leaf.dtype) for leaf in policy.signature.observation]
    noise = np.zeros((ROWS, 2), np.float32)

    def agrees() -> bool:
        expected, _ = model.predict(statistics.normalize_obs(observation), deterministic=True)
        return np.allclose(answer(policy, [*inputs, noise])["env_action"], expected, 1e-5, 1e-5)

    assert agrees()
    statistics.obs_rms["speed"].update(np.full((500, 2, 2), 9.0))
    assert not agrees()
    refresh(policy, model)
    assert agrees()


def test_policy_shares_the_layers_of_the_model() -> None:
    model, policy = adapted(PPO, "MlpPolicy", VECTOR, BOX)
    inputs = inputs_of(policy)
    before = answer(policy, inputs)["action"]
    stir(model.policy, seed=5)
    after = answer(policy, inputs)["action"]
    assert not np.allclose(before, after)
    assert_near(after, answer(from_sb3(model), inputs)["action"])


def test_mode_of_the_model_is_kept() -> None:
    model = ModelCase(PPO, "MlpPolicy", VECTOR, BOX).make()
    for mode in (True, False):
        model.policy.set_training_mode(mode)
        from_sb3(model)
        assert {module.training for module in model.policy.modules()} == {mode}


class Contrary(ActorCriticPolicy):
    """Computes its actions differently from its base class."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return -super()._predict(observation, deterministic) - 1


def test_policy_class_with_other_actions_is_refused() -> None:
    model = PPO(Contrary, DummyVecEnv([lambda: AnySpaces(VECTOR, BOX)]), device="cpu")
    with pytest.raises(ExportError, match=r"write an nn\.Module .* Contrary computes its actions differently"):
        from_sb3(model)


def test_other_objects_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"expected a Stable-Baselines3 model or policy, found Linear"):
        from_sb3(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_another_environment_is_refused() -> None:
    model = ModelCase(PPO, "MlpPolicy", VECTOR, DISCRETE).make()
    with pytest.raises(ConfigurationError, match=r"trained on shape \(5,\), this environment's is \(4,\)"):
        from_sb3(model, observation_space=spaces.Box(-1, 1, (4,), np.float32))
    with pytest.raises(ConfigurationError, match=r"trained on observations of Box.*; this environment's are Dict"):
        from_sb3(model, observation_space=NESTED)


def test_numbers_that_do_not_count_from_zero_are_refused() -> None:
    model = ModelCase(PPO, "MlpPolicy", VECTOR, spaces.Discrete(3, start=1)).make()
    with pytest.raises(ConfigurationError, match="count from 0"):
        from_sb3(model)


def test_statistics_of_single_frames_are_refused() -> None:
    env = VecFrameStack(VecNormalize(DummyVecEnv([lambda: AnySpaces(VECTOR, DISCRETE)])), n_stack=3)
    with pytest.raises(ConfigurationError, match="make VecNormalize the last wrapper"):
        from_sb3(PPO("MlpPolicy", env, device="cpu"))


def test_dqn_reports_the_lead_of_its_choice() -> None:
    model = ModelCase(DQN, "MlpPolicy", VECTOR, DISCRETE, SMALL).make()
    adapted = from_sb3(model)
    inputs = [torch.from_numpy(array) for array in make_inputs(adapted.signature, 50, seed=1)]
    with torch.no_grad():
        values = model.q_net(inputs[0])
        best = values.sort(descending=True).values
        expected = (best[:, 0] - best[:, 1]) / best[:, 0].abs().clamp(min=1)
        torch.testing.assert_close(adapted.choice_lead(inputs), expected)
    ppo = from_sb3(ModelCase(PPO, "MlpPolicy", VECTOR, DISCRETE).make())
    assert ppo.choice_lead(inputs).isinf().all()  # its noise can be moved
