"""Environments in a process each: Gymnasium's AsyncVectorEnv, made safe for an actor.

Each worker ends with the actor, even if it hangs or the actor is killed. Its error is one EnvironmentFailed.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from actor.environments.environments import describe_error
from shared.errors import EnvironmentFailed
from shared.process.process_guard import die_with

# A forked worker starts at once, shares the actor's memory, and leaves no named semaphore behind when all processes are
# killed together. Forking is safe only on Linux.
_CONTEXT = "fork" if sys.platform == "linux" else None
if TYPE_CHECKING:
    _AsyncVectorEnv = AsyncVectorEnv[Any, Any]
else:
    _AsyncVectorEnv = AsyncVectorEnv  # in Gymnasium 1.2, which RLlib needs, it is not generic

_GRACE_S = 1.0
_ERROR_TIMEOUT_S = 10.0


class ProcessEnvironments(_AsyncVectorEnv):
    """Environments in a process each. A step overwrites the observations, which are in shared memory.

    The thread that creates them must outlive them: the kernel ends a process with the thread that forked it.
    """

    def __init__(self, env_id: str, num_envs: int, env_kwargs: Mapping[str, Any], autoreset: AutoresetMode) -> None:
        self._env_id = env_id
        make = partial(_make_one, env_id, dict(env_kwargs), os.getpid())
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
        """Reset as Gymnasium does. Raise EnvironmentFailed for an error in a worker."""
        try:
            return super().reset(seed=seed, options=options)
        except (EOFError, ConnectionError) as error:
            raise self._gone() from error

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step as Gymnasium does. Raise EnvironmentFailed for an error in a worker."""
        try:
            return super().step(actions)
        except (EOFError, ConnectionError) as error:
            raise self._gone() from error

    def close_extras(self, timeout: float | None = _GRACE_S, terminate: bool = False) -> None:
        """Request the end of every worker; kill those left after ``timeout`` seconds, or at once with ``terminate``."""
        pipes = [pipe for pipe in self.parent_pipes if pipe is not None]
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", None))
        until_s = time.monotonic() + (0 if terminate else timeout or 0)
        for process in self.processes:
            process.join(max(0.0, until_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise one error. Gymnasium's version prints warnings, and may call the error's class with wrong arguments."""
        if all(successes):
            return
        index, _, error, trace = self.error_queue.get(timeout=_ERROR_TIMEOUT_S)
        failed = EnvironmentFailed(f"environment {index} of {self._env_id} raised {error}")
        failed.add_note(str(trace))
        raise failed from error

    def _gone(self) -> EnvironmentFailed:
        ended = connection.wait([process.sentinel for process in self.processes], _GRACE_S)
        for index, process in enumerate(self.processes):
            if process.sentinel in ended:
                process.join()
                code = process.exitcode or 0
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return EnvironmentFailed(f"the process of environment {index} of {self._env_id} {how}")
        return EnvironmentFailed(f"a process of {self._env_id} does not answer")


def _make_one(env_id: str, env_kwargs: dict[str, Any], actor: int) -> gymnasium.Env[Any, Any]:
    """Make one environment, in each worker and once in the actor, which reads the spaces from it."""
    is_worker = os.getpid() != actor
    if is_worker:
        # Reset the inherited signal handlers. A terminal sends Ctrl-C to every process; only the actor handles it.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(actor)
    environment = gymnasium.make(env_id, **{"disable_env_checker": True, **env_kwargs})
    return _Reporting(environment) if is_worker else environment


class _Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Turns an environment's errors into text: their own classes may not survive pickling."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise EnvironmentFailed(describe_error(error)) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except Exception as error:
            raise EnvironmentFailed(describe_error(error)) from error
