"""``python scripts/chaos.py``: does everything bad to a real training at random, and checks what holds."""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from rl_hotswap.cli.keys import PUBLIC_KEY_FILE, SIGNING_KEY_FILE, make_keys
from scripts.fault_injection.faults import Faults
from scripts.fault_injection.invariants import Invariants
from scripts.fault_injection.lost_work import CHECKPOINT_EVERY_S
from scripts.fault_injection.run_state import ACTORS, RunState
from scripts.fault_injection.shutdown_checks import end, trains
from scripts.fault_injection.test_environment import TestEnvironment, adopt_orphans
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.process.command_line import INTERRUPTED, run_command
from shared.process.log import set_up_logging
from shared.run.run_directory import RunDirectory

COMMAND = "python scripts/chaos.py"

_DISK_BYTES = 192 * 2**20
_TICK_S = 0.02
_BEGUN_WITHIN_S = 180.0
_WELL_WITHIN_S = 120.0
_TRAINING_FLAGS = [
    "--env=CartPole-v1",
    "--actors=2",
    "--envs-per-actor=4",
    "--batch-steps=512",
    "--epochs=2",
    "--hidden-sizes=16",
    "--target-return=inf",
    "--publish-every-updates=1000000",
    "--publish-every-s=0.2",
    "--checkpoint-every-updates=1000000",
    f"--checkpoint-every-s={CHECKPOINT_EVERY_S}",
    "--keep-versions=200",
]


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """Do everything bad to a real training at random, and check that nothing bad acts and nothing is lost.

    A training (supervisor, learner, two actors) and two actors that only act are killed, stopped and started again; the
    store gets corrupted versions, rollbacks and abandoned writes, is moved away and made read-only; checkpoints are
    broken, the disk is filled, the learner's socket flooded and sent invalid rollouts. Odd seeds sign their versions
    (of the corrupted ones half are signed as they lie there), even ones do not. What needs mounts (a disk of its own, a
    read-only store) needs root, and is left out otherwise.

    Exit code 0: every promise was kept. 1: one was not; the line VIOLATION says what and when.
    """

    minutes: float = 1.0
    """How long to go on."""
    seed: int = 1
    """What is done, and when."""
    json: Path | None = None
    """Write what was done and what held to this file."""
    logs: Path | None = None
    """Copy the logs of all processes into this directory, to see how a promise came to be broken."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise ConfigurationError(f"--minutes is above 0; found {self.minutes}")
        if self.seed < 0:
            raise ConfigurationError(f"--seed is 0 or more; found {self.seed}")


def main(options: ChaosOptions) -> int:
    """Run it, show the tables. Raises ConfigurationError where the training cannot even be begun."""
    set_up_logging("chaos", None, terminal_level=None)
    adopt_orphans()
    invariants = Invariants()
    environment = TestEnvironment(_DISK_BYTES)
    try:
        if not environment.mounts:
            invariants.say("nothing can be mounted here: no full disk, no read-only store")
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
    invariants.say(f"seed {options.seed}, {'signed' if signs else 'not signed'}, in {environment.path}")
    state = RunState(
        environment,
        run,
        invariants,
        flags=[*_TRAINING_FLAGS, f"--seed={options.seed}"],
        training=[f"--signing-key={keys / SIGNING_KEY_FILE}"] if signs else [],
        inference=[f"--public-key={keys / PUBLIC_KEY_FILE}"] if signs else [],
    )
    faults = Faults(state, generator, SigningKey.read(keys / SIGNING_KEY_FILE) if signs else None)
    interrupted = False
    try:
        _wait(state, _BEGUN_WITHIN_S, lambda: bool(state.checkpoints()) and _all_act(state))
        invariants.say("everything acts; chaos begins")
        try:
            _be_bad(state, faults, generator, options.minutes * 60)
        except KeyboardInterrupt:
            interrupted = True
        faults.undo(all_of_them=True)
        _wait(state, _WELL_WITHIN_S, lambda: _all_act(state) and trains(state, time.time() - 1.0))
        end(state)
    finally:
        faults.undo(all_of_them=True)
        state.close()
    return interrupted


def _be_bad(state: RunState, faults: Faults, generator: np.random.Generator, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    next_s = time.monotonic()
    while time.monotonic() < until_s:
        if time.monotonic() >= next_s:
            faults.do_one()
            next_s = time.monotonic() + float(generator.uniform(0.5, 2.0))
        faults.undo()
        state.look()
        time.sleep(_TICK_S)


def _wait(state: RunState, patience_s: float, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > deadline_s:
            state.invariants.broken(
                "the supervisor goes on", f"not all of them were well again within {patience_s:g} s"
            )
            return
        state.look()
        time.sleep(_TICK_S)


def _all_act(state: RunState) -> bool:
    return all(actor.first_acts_s is not None for actor in state.inference.values()) and all(
        state.find(name) is not None for name in ("learner", *ACTORS)
    )


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, ChaosOptions, main))
