"""Settings outside their range are refused by the constructor."""

from dataclasses import fields
from typing import get_args

import pytest

from learner.ppo.learner_config import LearnerConfig
from shared.errors import ConfigurationError

_FLOATS = [entry.name for entry in fields(LearnerConfig) if float in (entry.type, *get_args(entry.type))]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", _FLOATS)
def test_every_number_is_finite(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} .*; found {value}$"):
        LearnerConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("learning_rate", 0.0, 1e-9),
        ("max_grad_norm", 0.0, None),
        ("clip", -0.2, 0.1),
        ("max_rho", 0.0, 10.0),
        ("value_clip", -1.0, None),
        ("target_kl", 0.0, 0.01),
        ("value_coefficient", -0.5, 0.0),
        ("entropy_coefficient", -0.01, 0.0),
        ("gamma", 1.001, 1.0),
        ("trace_lambda", -0.1, 0.0),
        ("final_fraction", 2.0, 1.0),
        ("initial_log_std", 100.0, -1.0),
        ("max_lag", -1, 0),
        ("epochs", 0, 1),
        ("anneal_steps", 0, None),
        ("hidden_sizes", (64, 0), ()),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_its_name(name: str, wrong: object, right: object) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        LearnerConfig(**{name: wrong})
    assert str(refusal.value).startswith(f"{name} ")
    assert str(refusal.value).endswith(f"; found {wrong}")
    assert getattr(LearnerConfig(**{name: right}), name) == right
