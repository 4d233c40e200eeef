"""Stable-Baselines3 trains, saves and publishes; agents act with the published policies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("sb3_contrib")

from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize

from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.sb3.adapter import from_sb3
from learner.sb3.model_file import guess_algorithm, load_model, load_vec_normalize, load_weights
from learner.sb3.publish_callback import PublishCallback
from scripts.conformance.agreement import compare, sample_observations
from scripts.conformance.sb3_cases import BOX, DISCRETE, IMAGE, NESTED, VECTOR, ModelCase, model_cases
from shared.errors import ConfigurationError, NotTrusted, StoreUnavailable, WeightsError
from shared.store.policy_store import LocalPolicyStore
from tests.support.captured_logs import CapturedLogs

ROWS = 16
_ONE_ACTION_WITH_SEED_0 = ("QRDQN CnnPolicy, Discrete",)
NORMALIZED = ModelCase(PPO, "MlpPolicy", VECTOR, BOX, {"n_steps": 20, "batch_size": 20, "n_epochs": 1}, normalized=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(model_cases()), ids=lambda case: case.name)
def test_predict_and_the_artifact_agree(case: ModelCase) -> None:
    for found in compare(case, 1000, seed=2 if case.name in _ONE_ACTION_WITH_SEED_0 else 0):
        assert found.disagreeing == 0, found
        assert found.different_actions > 1, found


def acted(store: LocalPolicyStore, observation: Any, engine: Any = "torchscript") -> np.ndarray:
    with Agent(store, AgentOptions(num_envs=ROWS, engine=engine, deterministic=True, synchronous=True)) as agent:
        agent.reset()
        return np.asarray(agent.act(observation))


def test_the_callback_publishes_every_so_many_steps(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = LocalPolicyStore(tmp_path, fsync=False)
    model = NORMALIZED.make()
    callback = PublishCallback(store, every_steps=20, env_id="Any", onnx=False, synchronous=True)
    model.learn(60, callback=callback)
    assert store.versions() == [0, 1, 2, 3, 4]  # as training begins, at 20, 40 and 60 steps, as it ends
    steps = [store.open(version).manifest.training.env_steps for version in store.versions()]
    assert steps == [0, 20, 40, 60, 60]
    programs = {store.open(version).manifest.programs for version in store.versions()}
    assert len(programs) == 1  # so that an actor only reads weights
    assert not [line for line in captured_logs.messages() if "exporting again" in line]
    observation = sample_observations(VECTOR, ROWS, np.random.default_rng(0))
    statistics = model.get_vec_normalize_env()
    assert isinstance(statistics, VecNormalize)
    expected, _ = model.predict(statistics.normalize_obs(observation), deterministic=True)
    np.testing.assert_allclose(acted(store, observation), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("synchronous", [False, True])
def test_training_continues_when_the_store_refuses(
    synchronous: bool, tmp_path: Path, captured_logs: CapturedLogs
) -> None:
    class Refusing(LocalPolicyStore):
        def publish(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailable("the mount went away")

    model = ModelCase(A2C, "MlpPolicy", VECTOR, DISCRETE).make()
    model.learn(60, callback=PublishCallback(Refusing(tmp_path), every_steps=20, onnx=False, synchronous=synchronous))
    assert model.num_timesteps >= 60
    expected = "publishing failed, training continues: StoreUnavailable: the mount went away"
    assert expected in captured_logs.messages("WARNING")


def test_callback_refuses_a_period_of_no_steps(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="every_steps"):
        PublishCallback(LocalPolicyStore(tmp_path), every_steps=0)


@pytest.mark.parametrize(
    "case",
    [
        NORMALIZED,
        ModelCase(A2C, "MlpPolicy", VECTOR, DISCRETE),
        ModelCase(DQN, "CnnPolicy", IMAGE, DISCRETE, {"buffer_size": 16}),
        ModelCase(SAC, "MultiInputPolicy", NESTED, BOX, {"buffer_size": 16}),
    ],
    ids=lambda case: case.name,
)
def test_a_saved_model_is_read_with_its_pickles_or_without(case: ModelCase, tmp_path: Path) -> None:
    model = case.make()
    file = tmp_path / "model.zip"
    model.save(file)
    assert guess_algorithm(file) == case.algorithm.__name__
    with pytest.raises(NotTrusted, match="--trust-pickle"):
        load_model(file, trust_pickle=False)
    whole = load_model(file, trust_pickle=True)
    assert type(whole) is case.algorithm
    weights = load_weights(file, observation_space=case.observation, action_space=case.action, policy=case.policy)
    expected = from_sb3(model.policy, observation_space=case.observation).state_dict()
    for loaded in (whole.policy, weights):
        found = from_sb3(loaded, observation_space=case.observation).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_saved_statistics_are_a_pickle(tmp_path: Path) -> None:
    statistics = NORMALIZED.make().get_vec_normalize_env()
    assert isinstance(statistics, VecNormalize)
    statistics.save(str(tmp_path / "vec.pkl"))
    with pytest.raises(NotTrusted, match="--trust-pickle"):
        load_vec_normalize(tmp_path / "vec.pkl", trust_pickle=False)
    found = load_vec_normalize(tmp_path / "vec.pkl", trust_pickle=True)
    assert np.array_equal(found.obs_rms.mean, statistics.obs_rms.mean)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(b"not a zip")
    with pytest.raises(ConfigurationError, match="no model that Stable-Baselines3 saved"):
        load_model(file, trust_pickle=True)
    with pytest.raises(ConfigurationError, match="no model that Stable-Baselines3 saved"):
        guess_algorithm(tmp_path / "missing.zip")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    ModelCase(A2C, "MlpPolicy", VECTOR, DISCRETE).make().save(file)
    with pytest.raises(WeightsError, match="not the weights of a A2C MlpPolicy"):
        load_weights(file, observation_space=VECTOR, action_space=spaces.Discrete(9))
    with pytest.raises(ConfigurationError, match="has the policies MlpPolicy, CnnPolicy"):
        load_weights(file, observation_space=VECTOR, action_space=DISCRETE, policy="OtherPolicy")


def test_pickled_policy_arguments_need_trust(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    settings = {"policy_kwargs": {"activation_fn": torch.nn.ReLU}}
    ModelCase(A2C, "MlpPolicy", VECTOR, DISCRETE, settings).make().save(file)
    with pytest.raises(NotTrusted, match="policy_kwargs are pickled"):
        load_weights(file, observation_space=VECTOR, action_space=DISCRETE)
