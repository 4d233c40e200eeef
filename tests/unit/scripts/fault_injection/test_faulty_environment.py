"""The environment of chaos runs fails as requested, once for each request."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from scripts.fault_injection.faulty_environment import ENV_ID, FAULTS, REWARDS


def test_without_faults_it_is_cartpole() -> None:
    environments = [gymnasium.make(env_id) for env_id in ("CartPole-v1", ENV_ID)]
    for environment in environments:
        environment.reset(seed=3)
    ours, theirs = ([environment.step(1)[:4] for _ in range(5)] for environment in environments)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize("fault", REWARDS)
def test_faults_come_at_their_step_and_in_all_later_ones_or_once(fault: str) -> None:
    for again in (True, False):
        environment = gymnasium.make(ENV_ID, disable_env_checker=True, fault=fault, at=2, again=again)
        environment.reset(seed=0)
        rewards = [environment.step(0)[1] for _ in range(4)]
        assert rewards[:2] == [1.0, 1.0]
        np.testing.assert_equal(rewards[2:], [REWARDS[fault], REWARDS[fault] if again else 1.0])


def test_each_request_is_met_once(tmp_path: Path) -> None:
    one, other = (gymnasium.make(ENV_ID, disable_env_checker=True, requests=str(tmp_path)) for _ in range(2))
    for environment in (one, other):
        environment.reset(seed=0)
    (tmp_path / "raise").write_text("near Oslo")
    with pytest.raises(RuntimeError, match="the cart is stuck near Oslo"):
        one.step(0)
    (tmp_path / "nan observation").touch()
    assert np.isnan(other.step(0)[0]).all()
    assert np.isfinite(one.step(0)[0]).all()
    assert set(FAULTS) > set(REWARDS)
