"""Files of models: an algorithm that is not supported is refused with the remedy first."""

import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("sb3_contrib")

from learner.sb3.model_file import guess_algorithm, load_model
from shared.errors import ConfigurationError

REFUSAL = r"^publish the model's network with publish_policy, or train with one of PPO, .*: '{}' is not supported$"


@pytest.mark.parametrize("name", ["TQC", "QRDQN", "CROSSQ", "ARS"])
def test_unsupported_algorithm_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": f"sb3_contrib.{name.lower()}.policies"}}))
    with pytest.raises(ConfigurationError, match=REFUSAL.format(name)):
        guess_algorithm(file)


def test_unsupported_algorithm_of_a_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=REFUSAL.format("TQC")) as caught:
        load_model(tmp_path / "model.zip", trust_pickle=True, algorithm="TQC")
    assert len(str(caught.value)) < 300
