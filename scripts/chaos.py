"""``python scripts/chaos.py``: injects random faults into a real training and checks what must hold."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from rl_hotswap.cli.keys import PUBLIC_KEY_FILE, SIGNING_KEY_FILE, make_keys
from scripts.fault_injection.environment_faults import EnvironmentFaults
from scripts.fault_injection.faults import Faults
from scripts.fault_injection.faulty_environment import ENV_ID
from scripts.fault_injection.invariants import CHECKPOINT_EVERY_S, Invariants
from scripts.fault_injection.processes import TestEnvironment, adopt_orphans
from scripts.fault_injection.run_state import ACTORS, Flags, RunState
from scripts.fault_injection.shutdown_checks import shut_down, trains
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.process.command_line import INTERRUPTED, run_command
from shared.process.log import set_up_logging
from shared.run.run_directory import RunDirectory

COMMAND = "python scripts/chaos.py"

_DISK_BYTES = 192 * 2**20
_TICK_S = 0.02
_STARTED_WITHIN_S = 180.0
_RECOVERED_WITHIN_S = 120.0
_TRAINING_FLAGS = f"""
    --env={ENV_ID} --vector=sync
    --actors=2 --envs-per-actor=4 --batch-steps=512 --epochs=2 --hidden-sizes=16 --target-return=inf
    --publish-every-updates=1000000 --publish-every-s=0.2 --keep-versions=200
    --checkpoint-every-updates=1000000 --checkpoint-every-s={CHECKPOINT_EVERY_S}
""".split()


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """Inject random faults into a real training, and check that only valid versions act and nothing is lost.

    A training (supervisor, learner, two actors) and two inference-only actors are killed, stopped and restarted. The
    store gets corrupted versions, rollbacks and abandoned writes, is moved away and made read-only. Checkpoints are
    corrupted, the disk is filled, and the learner's socket receives garbage and poisoned rollouts. Environments give
    rewards and observations that are not finite or too large, raise, and hang. A third inference-only actor trusts
    programs that hang or crash for rare inputs. Odd seeds sign their versions (and half of the corrupted ones), even
    seeds do not. A full disk and a read-only store need mounts, and so root; otherwise, the run directory takes no new
    files for a while.

    Exit code 0: all invariants hold. 1: one does not; a line VIOLATION describes it.
    """

    minutes: float = 1.0
    """Duration of the faults."""
    seed: int = 1
    """Seed of the kinds and times of faults."""
    json: Path | None = None
    """Write the faults and the invariants to this file."""
    logs: Path | None = None
    """Copy the logs of all processes into this directory."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise ConfigurationError(f"--minutes must be above 0; found {self.minutes}")
        if self.seed < 0:
            raise ConfigurationError(f"--seed must be 0 or more; found {self.seed}")


def main(options: ChaosOptions) -> int:
    """Run all of it and print the tables. Raise ConfigurationError if the training cannot start."""
    set_up_logging("chaos", None, terminal_level=None)
    adopt_orphans()
    invariants = Invariants()
    environment = TestEnvironment(_DISK_BYTES)
    try:
        if not environment.mounts:
            invariants.print("mounting is not possible: no full disk, no read-only store")
        interrupted = _run(options, environment, invariants)
    finally:
        if options.logs is not None:
            for directory in (environment.outputs, environment.disk / "run" / "logs"):
                shutil.copytree(directory, options.logs, dirs_exist_ok=True)
        environment.close()
    invariants.show(Console())
    if options.json is not None:
        invariants.write(options.json, seed=options.seed)
    return INTERRUPTED if interrupted else 0 if invariants.is_good else 1


def _run(options: ChaosOptions, environment: TestEnvironment, invariants: Invariants) -> bool:
    signs = options.seed % 2 == 1
    keys = environment.path / "keys"
    if signs:
        make_keys(keys)
    run = RunDirectory(environment.disk / "run")
    generator = np.random.default_rng(options.seed)
    invariants.print(f"seed {options.seed}, {'signed' if signs else 'unsigned'}, in {environment.path}")
    requests = environment.path / "requests"
    requests.mkdir()
    kwargs = {"requests": str(requests)}
    flags = Flags(
        first_start=[*_TRAINING_FLAGS, f"--env-kwargs={json.dumps(kwargs)}", f"--seed={options.seed}"],
        training=[f"--signing-key={keys / SIGNING_KEY_FILE}"] if signs else [],
        inference=[f"--public-key={keys / PUBLIC_KEY_FILE}"] if signs else [],
    )
    state = RunState(environment, run, invariants, flags)
    key = SigningKey.read(keys / SIGNING_KEY_FILE) if signs else None
    faults = Faults(state, generator, key, EnvironmentFaults(requests, state, generator))
    interrupted = False
    try:
        _wait(state, _STARTED_WITHIN_S, lambda: bool(state.checkpoints()) and _all_act(state))
        invariants.print("all processes are running; faults begin")
        try:
            _inject_faults(state, faults, generator, options.minutes * 60)
        except KeyboardInterrupt:
            interrupted = True
        faults.undo(all_of_them=True)
        _wait(state, _RECOVERED_WITHIN_S, lambda: _all_act(state) and trains(state, time.time() - 1.0))
        shut_down(state)
    finally:
        faults.undo(all_of_them=True)
        state.close()
    return interrupted


def _inject_faults(state: RunState, faults: Faults, generator: np.random.Generator, seconds: float) -> None:
    next_s = time.monotonic()
    until_s = next_s + seconds
    while time.monotonic() < until_s:
        if time.monotonic() >= next_s:
            faults.inject()
            next_s = time.monotonic() + float(generator.uniform(0.5, 2.0))
        faults.undo()
        state.check()
        time.sleep(_TICK_S)


def _wait(state: RunState, timeout_s: float, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            message = f"not all processes act and train after {timeout_s:g} s"
            state.invariants.violated("the supervisor keeps running", message)
            return
        state.check()
        time.sleep(_TICK_S)


def _all_act(state: RunState) -> bool:
    return (
        state.rare_programs.is_settled
        and all(actor.first_acts_s is not None for actor in state.inference.values())
        and all(state.find(name) is not None for name in ("learner", *ACTORS))
    )


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, ChaosOptions, main))
