"""Processes that kill or stop themselves at a chosen system call of a store, for test_policy_store_faults.py.

Every call that changes or lists the file system is a step. The signal comes before the call of the chosen step, or
after half of a write.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from shared.store.policy_store import LocalPolicyStore, Retention
from tests.support.sample_versions import sample_files, sample_manifest

CALLS = ("open", "mkdir", "write", "fsync", "rename", "replace", "scandir", "listdir", "unlink", "rmdir", "close")


def save_checkpoint(store: LocalPolicyStore) -> None:
    """Save a checkpoint in the directory of the store."""
    from learner.training.checkpoint import CheckpointStore

    CheckpointStore(store.path).save(3, {"step": 3})


ACTS: dict[str, Callable[[LocalPolicyStore], object]] = {
    "publish": lambda store: store.publish(sample_files(b"killed"), sample_manifest),
    "sweep": lambda store: store.sweep(Retention(keep_newest=2)),
    "quarantine": lambda store: store.quarantine("a" * 64, "probe", by="killed"),
    "checkpoint": save_checkpoint,
}


def act_until(act: str, path: Path, step: int, fault: signal.Signals) -> None:
    """Do ``act`` on the store at ``path``, but send ``fault`` to this process at ``step``, counted from 0."""
    store = LocalPolicyStore(path, abandon_after_s=0.0)
    steps_left = step

    def wrap(name: str) -> None:
        call = getattr(os, name)

        def counted(*args, **kwargs):
            nonlocal steps_left
            steps_left -= 1
            if steps_left == -1:
                if name == "write":
                    written = call(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), fault)
                if name == "write":  # stopped and continued: a short write, which the system allows
                    return written
            return call(*args, **kwargs)

        setattr(os, name, counted)

    for name in CALLS:
        wrap(name)
    ACTS[act](store)


def kill_at_every_step(act: str, paths: list[Path]) -> None:
    """Do ``act`` on one store after another, killed one step later each time, until it reaches its end.

    Prints the number of stores used as JSON. Children are forked: imports for each of them would take minutes.
    """
    if act == "checkpoint":
        import learner.training.checkpoint  # noqa: F401
    for step, path in enumerate(paths):
        child = os.fork()
        if child == 0:
            act_until(act, path, step, signal.SIGKILL)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(json.dumps({"killed": step, "exit_code": os.waitstatus_to_exitcode(status)}))
            return
    raise SystemExit(f"{len(paths)} stores are too few for every step of {act}")


def publish_many(path: Path, name: str, count: int) -> None:
    """Wait for a line on stdin, publish ``count`` versions with ``name`` in their weights, print their numbers."""
    store = LocalPolicyStore(path)
    print("ready", flush=True)
    sys.stdin.readline()
    numbers = []
    for i in range(count):
        numbers.append(store.publish(sample_files(f"{name} {i}".encode()), sample_manifest).version)
        store.sweep(Retention(keep_newest=5))
    print(json.dumps(numbers))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["kill", act, *paths]:
            kill_at_every_step(act, [Path(path) for path in paths])
        case ["stop", act, path, step]:
            act_until(act, Path(path), int(step), signal.SIGSTOP)
        case ["publish", path, name, count]:
            publish_many(Path(path), name, int(count))
