"""Environments whose numbers name their episode and step: ``Counting-v0``; ``Faulty-v0`` fails in its second step."""

import sys
import threading
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTHS = (3, 1, 4, 2)


class Counting(gymnasium.Env[Any, Any]):
    """Observes [episode, step], rewards with the step's number (from 1), ends after ``LENGTHS`` in turn.

    Episodes of even number are truncated, those of odd number terminate. ``seed`` turns the lengths, and is the first
    episode's number. ``nested`` observes {"clock": (step, [episode, step]), "parity": step % 2}. ``masked`` allows
    action 0 always, action 1 after an odd number of steps, and nothing at all in a final state.
    """

    def __init__(self, *, nested: bool = False, masked: bool = False, fault: str | None = None) -> None:
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        clock = spaces.Tuple((spaces.Discrete(100), box))
        self.observation_space = spaces.Dict({"clock": clock, "parity": spaces.Discrete(2)}) if nested else box
        self.action_space = spaces.Discrete(3)
        self.nested, self.masked, self.fault = nested, masked, fault
        self.episode, self.steps = -1, 0
        self.actions: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode = self.episode + 1 if seed is None else seed % 8
        self.steps = 0
        return self._observe(), self._info(ended=False)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(int(action))
        self.steps += 1
        ended = self.steps == LENGTHS[self.episode % len(LENGTHS)]
        truncates = self.episode % 2 == 0
        return self._observe(), float(self.steps), ended and not truncates, ended and truncates, self._info(ended=ended)

    def _observe(self) -> Any:
        pair = np.array([self.episode, self.steps], np.float64)
        return {"clock": (self.steps, pair), "parity": self.steps % 2} if self.nested else pair

    def _info(self, *, ended: bool) -> dict[str, Any]:
        if not self.masked or (self.fault == "no mask" and self.steps > 0):
            return {}
        allowed = [0, 0, 0] if ended or self.fault == "nothing allowed" else [1, self.steps % 2, 0]
        return {"action_mask": np.array(allowed, np.int8)}


gymnasium.register("Counting-v0", Counting)


class Faulty(Counting):
    """Hangs, or raises an error that cannot be pickled, in its second step, or raises in its second reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self.episode >= 0 and self.fault == "raise in reset":
            raise OSError("no simulator")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self.steps == 1 and self.fault == "raise":

            class Unsendable(Exception):
                def __init__(self, first: str, second: str) -> None:
                    super().__init__(f"{first} {second}")

            raise Unsendable("the motor", "is hot")
        if self.steps == 1 and self.fault == "hang":
            threading.Event().wait()
        return super().step(action)


gymnasium.register("Faulty-v0", Faulty)
gymnasium.register("Raising-v0", Faulty, kwargs={"fault": "raise"})


def main(fault: str) -> None:
    """Run an actor's environments in processes, for a test that kills it: print their pids, then step on."""
    from actor.environments.environment_creation import make_environments
    from actor.environments.process_environments import ProcessEnvironments

    environments = make_environments("Faulty-v0", 3, vector="async", env_kwargs={"fault": fault})
    assert isinstance(environments.vector, ProcessEnvironments)
    environments.reset(seed=0)
    print(*(process.pid for process in environments.vector.processes), flush=True)
    while True:
        environments.step(np.zeros(3, np.int64))


if __name__ == "__main__":
    main(sys.argv[1])
