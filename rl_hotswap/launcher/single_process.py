"""Training with ``--actors 0``: one process acts and learns alternately, so that a seed always gives the same weights.

Rollouts travel by function call, and each version is adopted as soon as it is published.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from learner.run import run_training
from learner.training.run_options import Outcome
from learner.training.training import Acting, train
from rl_hotswap.launcher.acting_options import SingleProcessRun
from shared.policy.signing import public_keys_of
from shared.process.command_line import run_command
from shared.process.log import environment_failures
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore
from shared.transport.in_process import InProcessReceiver, InProcessSender

_ACTOR_ID = "actor-0"


class WorkerDrivenReceiver(InProcessReceiver):
    """An in-process receiver that has the worker collect a rollout for each ``receive``.

    The traceback of an environment that fails is in ``log``.
    """

    worker: RolloutWorker
    log: Path

    def begin_epoch(self, number: int) -> None:
        """Begin an epoch of the worker."""
        with environment_failures(self.log):
            self.worker.begin_epoch(number)

    def receive(self, timeout_s: float) -> Rollout | None:  # noqa: ARG002  nothing to wait for
        """Collect and return the next rollout; never wait."""
        with environment_failures(self.log):
            rollout = self.worker.collect()
        if rollout is not None:
            self.worker.send(rollout)
        return super().receive(0.0)


def main(options: SingleProcessRun) -> int:
    """Train until the target, a limit or a signal, and return the exit code."""
    return run_training(options, partial(train_in_one_process, options))


def train_in_one_process(options: SingleProcessRun, run: RunDirectory, stop_requested: Callable[[], bool]) -> Outcome:
    """Run a whole training in this process. Raises the errors of ``learner.training.training.train``."""

    def connect(config: RunConfig, layout: RolloutLayout) -> Acting:
        receiver = WorkerDrivenReceiver(layout, config.run_id, synchronous=options.learner.sync)
        receiver.log = run.logs / "learner.log"
        agent = Agent(
            LocalPolicyStore(run.policies),
            AgentOptions(
                num_envs=options.envs_per_actor,
                engine=options.engine,
                seed=options.seed,
                synchronous=True,
                sandbox=None,  # the learner of this process makes the programs
                call_deadline_s=options.call_deadline_s,
                trust=TrustOptions(
                    trusted_modules=options.trusted_modules,
                    trust_native=options.trust_native,
                    allowed_operators=options.allow_operator,
                    trust_programs=options.trust_program,
                    public_keys=public_keys_of(config.policy_public_key),
                    run_id=config.run_id,
                ),
            ),
        )
        receiver.worker = RolloutWorker(
            agent,
            make_environments(
                options.env, options.envs_per_actor, vector=options.vector, env_kwargs=options.environment_kwargs()
            ),
            layout,
            RolloutOptions(run_id=config.run_id, actor_id=_ACTOR_ID, seed=options.seed),
            InProcessSender(receiver, _ACTOR_ID, window=1),
        )
        return Acting(receiver, synchronous=True, begin_epoch=receiver.begin_epoch)

    return train(options, run, connect, stop_requested)


if __name__ == "__main__":
    sys.exit(run_command("python -m rl_hotswap.launcher.single_process", SingleProcessRun, main))
