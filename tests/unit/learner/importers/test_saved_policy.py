"""The library of a file is found by its kind, and one that is not installed is named with its extra."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from learner.importers.saved_policy import SavedPolicy, library_of, read_policy
from shared.errors import ConfigurationError


def test_the_kind_of_a_file_names_its_library(tmp_path: Path) -> None:
    assert library_of("model.zip") == "sb3"
    assert library_of("runs/ppo.py:Agent") == "cleanrl"
    assert library_of(str(tmp_path)) == "rllib"


@pytest.mark.parametrize(
    ("source", "package", "extra"), [("model.zip", "stable_baselines3", "sb3"), (".", "ray", "rllib")]
)
def test_a_missing_library_is_named_with_its_extra(
    source: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *others: Any) -> Any:
        return None if name == package else find(name, *others)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ConfigurationError, match=rf'{package} is not installed: pip install "rl-hotswap\[{extra}\]"'):
        read_policy(SavedPolicy(source))


def test_an_agent_of_cleanrl_needs_spaces() -> None:
    with pytest.raises(ConfigurationError, match="expected --env ID"):
        read_policy(SavedPolicy("ppo.py:Agent"))
