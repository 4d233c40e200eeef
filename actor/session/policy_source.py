"""Where an actor's policies come from: a run's directory, found or given, or a bare store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError, NotAuthentic, PolicyUnavailable
from shared.policy.signing import PublicKey
from shared.run.run_config import RunConfig, check_run_config
from shared.run.run_directory import DEFAULT_ROOT, RunDirectory, find_run
from shared.store.policy_store import PolicyStore, open_store

_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True)
class PolicySource:
    """``run`` and ``config`` are None for a bare store; ``config`` also for a directory with nothing but policies."""

    store: PolicyStore
    where: str
    run: RunDirectory | None = None
    config: RunConfig | None = None


def find_source(
    env_id: str,
    run_dir: Path | None,
    store: str | None,
    *,
    deadline_s: float,
    say: Callable[[str], None],
    keys: Sequence[PublicKey] = (),
) -> PolicySource:
    """The store at ``store``, or the run at ``run_dir``, or the run of ``env_id`` that is live, else the newest.

    Waits until the run is there and its learner has said what actors must know, signed with one of ``keys`` where there
    are any, after having ``say`` tell what it waits for, and where. Raises PolicyUnavailable after ``deadline_s``,
    StoreError and ConfigurationError.
    """
    if store is not None:
        return PolicySource(_open_existing(store), store)
    until_s = time.monotonic() + deadline_s
    nobody = f"a learner in {run_dir}" if run_dir else f"a run of {env_id} under {DEFAULT_ROOT}{'/'}, none is there yet"
    told = None
    while True:
        run = RunDirectory(run_dir) if run_dir is not None else find_run(env_id)
        config = None if run is None else run.run_config()
        if run is None or (config is None and not run.has_version()):
            lacks, hint = nobody, f" (python scripts/train.py --env {env_id} starts one)"
        elif (fault := _not_authentic(run, config, keys)) is not None:
            lacks, hint = f"a run that can be believed: {fault}", ""
        else:
            return PolicySource(open_store(str(run.policies)), str(run.policies), run, config)
        if lacks != told:
            say(f"waiting for {lacks}{hint}")
            told = lacks
        if time.monotonic() > until_s:
            raise PolicyUnavailable(f"nothing to act with after {deadline_s:g} s: waited for {lacks}")
        time.sleep(_LOOK_AGAIN_S)


def _not_authentic(run: RunDirectory, config: RunConfig | None, keys: Sequence[PublicKey]) -> str | None:
    """Why what the run says is not to be believed; a learner that goes on with another key will write it anew."""
    try:
        if config is not None:
            check_run_config(config, keys, f"{run.path}/run.json")
    except NotAuthentic as error:
        return str(error)
    return None


def _open_existing(where: str) -> PolicyStore:
    """A directory that is not there is a slip of the pen; one that is empty may be waited for, and so may a URL."""
    store = open_store(where)
    if store.watch_path is not None and not store.watch_path.is_dir():
        raise ConfigurationError(
            f"there is no policy store {where}; --store names one that exists (make an empty directory to wait for its "
            "first version)"
        )
    return store
