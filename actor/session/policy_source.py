"""The source of an actor's policies: a run's directory, found or given, or a bare store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError, NotAuthentic, PolicyUnavailable
from shared.policy.signing import PublicKey
from shared.run.run_config import RunConfig, check_run_config
from shared.run.run_directory import DEFAULT_ROOT, RunDirectory, find_run
from shared.store.policy_store import PolicyStore, open_store

_POLL_S = 0.2


@dataclass(frozen=True)
class PolicySource:
    """A store. ``run`` and ``config`` are None for a bare store; ``config`` is None for a run with only policies."""

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
    print_line: Callable[[str], None],
    keys: Sequence[PublicKey] = (),
) -> PolicySource:
    """Return the store at ``store``, the run at ``run_dir``, or the live, else the newest run of ``env_id``.

    Waits until the run exists and has its configuration, signed with one of ``keys`` if there are any, and prints the
    reason for the wait. Raises PolicyUnavailable after ``deadline_s``, StoreError and ConfigurationError.
    """
    if store is not None:
        opened = open_store(store)
        if opened.watch_path is not None and not opened.watch_path.is_dir():
            raise ConfigurationError(
                f"there is no policy store {store}; --store names one that exists (make an empty directory to wait for "
                "its first version)"
            )
        return PolicySource(opened, store)
    until_s = time.monotonic() + deadline_s
    no_run = f"a learner in {run_dir}" if run_dir else f"a run of {env_id} under {DEFAULT_ROOT}{'/'}, none is there yet"
    printed = None
    while True:
        run = RunDirectory(run_dir) if run_dir is not None else find_run(env_id)
        config = None if run is None else run.run_config()
        if run is None or (config is None and not run.has_version()):
            missing, hint = no_run, f" (python scripts/train.py --env {env_id} starts one)"
        elif (fault := _authenticity_fault(run, config, keys)) is not None:
            missing, hint = f"a run with a valid signature: {fault}", ""
        else:
            return PolicySource(open_store(str(run.policies)), str(run.policies), run, config)
        if missing != printed:
            print_line(f"waiting for {missing}{hint}")
            printed = missing
        if time.monotonic() > until_s:
            raise PolicyUnavailable(f"nothing to act with after {deadline_s:g} s: waited for {missing}")
        time.sleep(_POLL_S)


def _authenticity_fault(run: RunDirectory, config: RunConfig | None, keys: Sequence[PublicKey]) -> str | None:
    try:
        if config is not None:
            check_run_config(config, keys, f"{run.path}/run.json")
    except NotAuthentic as error:
        return str(error)
    return None
