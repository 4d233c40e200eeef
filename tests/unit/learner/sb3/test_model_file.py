"""Files of models: the algorithm is guessed from plain text, and an unknown one is refused with the remedy first."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sb3_contrib")

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import DDPG, TD3

from learner.sb3.adapter import from_sb3
from learner.sb3.model_file import guess_algorithm, load_model, load_weights
from scripts.conformance.sb3_cases import BOX, DISCRETE, VECTOR, ModelCase
from shared.errors import ConfigurationError

REFUSAL = r"^publish the model's network with publish_policy, or train with one of PPO, .*: '{}' is not supported$"
SMALL = {"buffer_size": 16}


@pytest.mark.parametrize(
    "case",
    [
        ModelCase(DDPG, "MlpPolicy", VECTOR, BOX, SMALL),
        ModelCase(TD3, "MlpPolicy", VECTOR, BOX, SMALL),
        ModelCase(TRPO, "MlpPolicy", VECTOR, DISCRETE),
        ModelCase(TQC, "MlpPolicy", VECTOR, BOX, SMALL),
        ModelCase(QRDQN, "MlpPolicy", VECTOR, DISCRETE, SMALL),
        ModelCase(CrossQ, "MlpPolicy", VECTOR, BOX, SMALL),
        ModelCase(ARS, "MlpPolicy", VECTOR, DISCRETE),
        ModelCase(ARS, "LinearPolicy", VECTOR, BOX),
    ],
    ids=lambda case: case.name,
)
def test_a_saved_model_of_each_algorithm_is_read_with_its_pickles_or_without(case: ModelCase, tmp_path: Path) -> None:
    model: Any = case.make()
    file = tmp_path / "model.zip"
    model.save(file)
    assert guess_algorithm(file) == case.algorithm.__name__
    expected = from_sb3(model.policy).state_dict()
    weights = load_weights(file, observation_space=VECTOR, action_space=case.action, policy=case.policy)
    for loaded in (load_model(file, trust_pickle=True).policy, weights):
        found = from_sb3(loaded).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_unknown_algorithm_of_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "sb3_contrib.other.policies"}}))
    with pytest.raises(ConfigurationError, match=REFUSAL.format("OTHER")):
        guess_algorithm(file)


def test_unknown_algorithm_of_a_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=REFUSAL.format("OTHER")) as caught:
        load_model(tmp_path / "model.zip", trust_pickle=True, algorithm="OTHER")
    assert len(str(caught.value)) < 300
