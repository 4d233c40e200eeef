"""Environments in a process each: none outlives its actor, and an error in one is one clear error in the actor."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from actor.environments.environment_creation import make_environments
from actor.environments.environments import Environments
from actor.environments.process_environments import ProcessEnvironments
from shared.errors import ConfigurationError, EnvironmentFailed
from tests.support.waiting import until

FAULTY = "tests.support.counting_environment:Faulty-v0"
ACTIONS = np.zeros(3, np.int64)


def _make(fault: str | None = None) -> tuple[Environments, ProcessEnvironments]:
    environments = make_environments(FAULTY, 3, vector="async", env_kwargs={"fault": fault})
    assert isinstance(environments.vector, ProcessEnvironments)
    environments.reset(seed=0)
    return environments, environments.vector


def _are_gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def _shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").glob("*mp-*")}


@pytest.mark.parametrize("fault", ["none", "hang"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_environment_outlives_an_actor_that_is_killed(fault: str, number: signal.Signals) -> None:
    before = _shared_memory()
    command = [sys.executable, "-m", "tests.support.counting_environment", fault]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        pids = [int(word) for word in actor.stdout.readline().split()]
        assert len(pids) == 3
        actor.send_signal(number)
    until(lambda: _are_gone(pids), 60)
    until(lambda: _shared_memory() <= before, 60)  # other tests have some for moments


def test_an_environment_that_raises_is_one_error_that_names_it_and_has_its_traceback() -> None:
    environments, _ = _make("raise")
    with environments:
        environments.step(ACTIONS)
        with pytest.raises(
            EnvironmentFailed, match=r"environment [02] of .* raised Unsendable: the motor is hot"
        ) as failed:
            environments.step(ACTIONS)
    assert "in step\n    raise Unsendable" in "".join(failed.value.__notes__)


def test_an_environment_that_raises_in_this_process_is_the_same_error() -> None:
    with make_environments(FAULTY, 3, vector="sync", env_kwargs={"fault": "raise"}) as environments:
        environments.reset(seed=0)
        environments.step(ACTIONS)
        with pytest.raises(
            EnvironmentFailed, match=r"^tests.*:Faulty-v0 raised Unsendable: the motor is hot$"
        ) as failed:
            environments.step(ACTIONS)
    assert type(failed.value.__cause__).__name__ == "Unsendable"


def test_an_environment_that_raises_in_a_reset_is_named_too() -> None:
    with make_environments(FAULTY, 3, vector="sync", env_kwargs={"fault": "raise in reset"}) as environments:
        environments.reset(seed=0)
        with pytest.raises(EnvironmentFailed, match=r"^tests.*:Faulty-v0 raised OSError: no simulator, in a reset$"):
            environments.reset()


@pytest.mark.parametrize("what", ["step", "reset"])
def test_an_environment_whose_process_is_killed_is_one_error_that_names_it(what: str) -> None:
    environments, vector = _make()
    with environments:
        pid = vector.processes[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFailed, match=r"process of environment 1 of .* was killed by SIGKILL"):
            environments.step(ACTIONS) if what == "step" else environments.reset()


def test_close_kills_an_environment_that_hangs() -> None:
    environments, vector = _make("hang")
    environments.step(ACTIONS)
    vector.step_async(ACTIONS)
    pids = [process.pid for process in vector.processes if process.pid is not None]
    environments.close()
    assert _are_gone(pids)


def test_an_environment_that_cannot_be_made_leaves_no_process() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ConfigurationError, match="cannot make"):
        make_environments(FAULTY, 3, vector="async", env_kwargs={"unknown": 1})
    assert set(psutil.Process().children()) <= before
