"""An actor's environments in processes of their own, for a test that kills it: prints their pids, then steps on."""

import sys
import threading
from typing import Any

import gymnasium
import numpy as np

from actor.environments.environment_creation import make_environments
from actor.environments.process_environments import ProcessEnvironments
from tests.support.counting_environment import Counting


class Faulty(Counting):
    """Raises an error that cannot be sent to another process, or hangs, in its second step."""

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


def main(fault: str) -> None:
    environments = make_environments("Faulty-v0", 3, vector="async", env_kwargs={"fault": fault})
    assert isinstance(environments.vector, ProcessEnvironments)
    environments.reset(seed=0)
    print(*(process.pid for process in environments.vector.processes), flush=True)
    while True:
        environments.step(np.zeros(3, np.int64))


if __name__ == "__main__":
    main(sys.argv[1])
