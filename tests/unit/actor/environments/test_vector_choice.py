import sys
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from actor.environments.environment_creation import make_environments
from actor.environments.process_environments import ProcessEnvironments
from actor.environments.vector_choice import MESSAGES_S, async_pays
from shared.errors import ConfigurationError
from tests.contract.test_environments import NEEDS_ENVPOOL
from tests.support.captured_logs import CapturedLogs
from tests.support.counting_environment import Counting

COUNTING = "tests.support.counting_environment:Counting-v0"


class _Slow(Counting):
    """An environment whose step takes far longer than two messages."""

    def step(self, action: Any) -> Any:
        time.sleep(0.02)
        return super().step(action)


@pytest.fixture
def slow() -> Iterator[str]:
    gymnasium.register("Slow-v0", _Slow)
    yield "Slow-v0"
    del gymnasium.registry["Slow-v0"]


@pytest.mark.parametrize(
    ("step_s", "num_envs", "cores", "pays"),
    [
        (1e-6, 64, 64, False),  # a step costs less than the messages about it
        (MESSAGES_S, 64, 64, False),
        (10e-3, 8, 8, True),
        (10e-3, 8, 2, True),
        (10e-3, 8, 1, False),  # one core cannot share the work
        (10e-3, 1, 8, False),
        (0.3e-3, 8, 2, False),  # faster, but not enough for eight processes
        (0.3e-3, 8, 8, True),
    ],
)
def test_processes_pay_where_a_step_is_slow_and_cores_are_there(
    step_s: float, num_envs: int, cores: int, pays: bool
) -> None:
    assert async_pays(step_s, num_envs, cores) is pays


@pytest.mark.parametrize(
    ("env_id", "num_envs", "options", "form", "said"),
    [
        ("CartPole-v1", 4, {"measure": True}, VectorEnv, "entry_point reason=the fastest form"),
        ("Slow-v0", 4, {}, SyncVectorEnv, "sync reason=no vector entry point; not measured"),
        ("Slow-v0", 1, {"measure": True}, SyncVectorEnv, "sync reason=one environment"),
        ("CartPole-v1", 2, {"vector": "async"}, ProcessEnvironments, "async reason=--vector async"),
    ],
)
def test_the_form_is_logged_with_its_reason(
    slow: str, captured_logs: CapturedLogs, env_id: str, num_envs: int, options: dict[str, Any], form: type, said: str
) -> None:
    with make_environments(env_id, num_envs, **options) as environments:
        assert isinstance(environments.vector, form)
    assert captured_logs.messages("INFO") == [f"environments created env={env_id} num_envs={num_envs} vector={said}"]


def test_auto_measures_and_logs_it(monkeypatch: pytest.MonkeyPatch, slow: str, captured_logs: CapturedLogs) -> None:
    monkeypatch.setattr("actor.environments.environment_creation.usable_cores", lambda: 4)
    with make_environments(slow, 4, measure=True) as environments:
        assert isinstance(environments.vector, ProcessEnvironments)
    with make_environments(COUNTING, 2, measure=True) as environments:
        assert isinstance(environments.vector, SyncVectorEnv)
    first, second = captured_logs.messages("INFO")
    assert first.startswith(
        "environments created env=Slow-v0 num_envs=4 vector=async reason=no vector entry point; step_us=2"
    )
    assert first.endswith(" cores=4")
    assert " vector=sync " in second


def test_without_envpool_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigurationError, match=r'not installed: pip install "rl-hotswap\[envpool\]"'):
        make_environments("CartPole-v1", 2, vector="envpool")


@NEEDS_ENVPOOL
@pytest.mark.parametrize(
    ("env_id", "kwargs", "autoreset", "said"),
    [
        ("Taxi-v4", {}, None, "EnvPool has no Taxi-v4; its Taxi-v3 is another task"),
        ("Blackjack-v1", {"natural": True}, None, "does not know natural"),
        ("CartPole-v1", {}, AutoresetMode.SAME_STEP, "resets by"),
        ("CartPole-v1", {"max_episode_steps": -1}, None, "needs a max_episode_steps"),
        ("tests.support.counting_environment:Counting-v0", {"max_episode_steps": 3}, None, "is not Gymnasium's own"),
    ],
)
def test_environments_that_envpool_lacks_are_refused(
    env_id: str, kwargs: dict[str, Any], autoreset: AutoresetMode | None, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_environments(env_id, 2, vector="envpool", env_kwargs=kwargs, autoreset=autoreset)


@NEEDS_ENVPOOL
def test_auto_never_uses_envpool(captured_logs: CapturedLogs) -> None:
    with make_environments("Acrobot-v1", 2) as environments:
        assert isinstance(environments.vector, SyncVectorEnv)
