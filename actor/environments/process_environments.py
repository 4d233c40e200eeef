"""Environments that each run in a process of their own: Gymnasium's AsyncVectorEnv, made safe to have in an actor.

Each worker ends with the actor, however that is killed; what goes wrong in one is one EnvironmentFailed here; and an
environment that does not listen any more is no reason not to end.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from loguru import logger

from shared.errors import EnvironmentFailed
from shared.process.process_guard import die_with

# Forked, a worker is there at once, shares the actor's memory, and leaves no named semaphore behind when everything is
# killed at the same moment. Elsewhere than on Linux forking is not safe.
_CONTEXT = "fork" if sys.platform == "linux" else None

_GRACE_S = 1.0
_LAST_WORDS_S = 10.0


class ProcessEnvironments(AsyncVectorEnv[Any, Any]):
    """``num_envs`` environments ``env_id``, each in a process. A step overwrites observations, in shared memory.

    Must be made by a thread that lives as long as they shall: the kernel ends a process with the thread that forked it.
    """

    def __init__(self, env_id: str, num_envs: int, env_kwargs: Mapping[str, Any], autoreset: AutoresetMode) -> None:
        self._env_id = env_id
        make = _OneEnvironment(env_id, dict(env_kwargs), os.getpid())
        self.parent_pipes, self.processes = [], []
        try:
            super().__init__([make] * num_envs, copy=False, context=_CONTEXT, autoreset_mode=autoreset)
        except (EOFError, ConnectionError) as error:
            gone = self._gone()
            self.close()
            raise gone from error
        except BaseException:
            self.close()
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's. Raises EnvironmentFailed."""
        try:
            return super().reset(seed=seed, options=options)
        except (EOFError, ConnectionError) as error:
            raise self._gone() from error

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As Gymnasium's. Raises EnvironmentFailed."""
        try:
            return super().step(actions)
        except (EOFError, ConnectionError) as error:
            raise self._gone() from error

    def close_extras(self, timeout: float | None = _GRACE_S, terminate: bool = False) -> None:
        """Ask every worker to end; after ``timeout`` seconds, or at once with ``terminate``, kill those still there."""
        for pipe in self.parent_pipes:
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
        until_s = time.monotonic() + (0 if terminate else timeout or 0)
        for process in self.processes:
            process.join(max(0.0, until_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Gymnasium's way prints warnings, and calls the error's class with arguments that it may not take."""
        if all(successes):
            return
        index, _, error, trace = self.error_queue.get(timeout=_LAST_WORDS_S)
        logger.error("environment {} of {} failed\n{}", index, self._env_id, trace)
        raise EnvironmentFailed(f"environment {index} of {self._env_id} raised {error}") from error

    def _gone(self) -> EnvironmentFailed:
        """What is known of a worker that does not answer any more."""
        ended = connection.wait([process.sentinel for process in self.processes], _GRACE_S)
        for index, process in enumerate(self.processes):
            if process.sentinel in ended:
                process.join()
                code = process.exitcode or 0
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return EnvironmentFailed(f"the process of environment {index} of {self._env_id} {how}")
        return EnvironmentFailed(f"a process of {self._env_id} does not answer any more")


@dataclass(frozen=True)
class _OneEnvironment:
    """Makes the environment: in the actor, where its spaces are looked at, and in each worker."""

    env_id: str
    env_kwargs: dict[str, Any]
    actor: int

    def __call__(self) -> gymnasium.Env[Any, Any]:
        if os.getpid() == self.actor:
            return self._make()
        # The actor's handlers came along. Ctrl-C at a terminal is sent to every process: it is the actor's to answer.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(self.actor)
        return _Reporting(self._make())

    def _make(self) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(self.env_id, **{"disable_env_checker": True, **self.env_kwargs})


class _Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Turns what an environment raises into words: an error of its own class may not be fit to leave the process."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise EnvironmentFailed(f"{type(error).__name__}: {error}") from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except Exception as error:
            raise EnvironmentFailed(f"{type(error).__name__}: {error}") from error
