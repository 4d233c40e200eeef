"""The directory of one training run: where its files are and what they contain.

    runs/CartPole-v1-20250131-140501-a1b2c3/
      policies/  checkpoints/  logs/  tensorboard/
      numbers/         the highest version number used (shared.store.local_policy_store)
      options.json     the flags of the run; --resume continues with them
      run.json         what actors have to know (shared.run.run_config)
      progress.json    written several times a second during training
      summary.json     written at the end
      arrivals.jsonl   the rollouts that the learner has received (shared.transport.arrival_journal)
      learner.key      the keys of the learner, which only the owner can read
      actor.key        the keys of its actors: the only file that a remote actor needs (shared.transport.transport_keys)
      learner.sock     without --listen: the socket of the learner
      learner.lock     locked while a learner runs (flock: the kernel releases it however the process ends)
      supervisor.lock  locked while a supervisor runs, also between two learners

Every JSON file is replaced atomically. Only the owner can enter the directory (shared.run.private_files).
"""

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from shared.errors import ConfigurationError, StoreLocked
from shared.files.bounded_read import NotRegularFileError, read_regular_file
from shared.files.small_files import replace_file, sweep_dead_writers
from shared.files.strict_json import repeated_key
from shared.run.private_files import PRIVATE, check_may_be_made_private, check_own, is_own, restrict_directories
from shared.run.progress import Progress, Summary
from shared.run.run_config import RunConfig, encode_run_config

DEFAULT_ROOT = Path("runs")
_LOCK_PATIENCE_S = 1.0
_MAX_BYTES = 2**24
_Content = TypeVar("_Content")

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{9})\.pt")
"""File name of a checkpoint. The group is the number of updates before it."""


class RunDirectory:
    """The files of one run. Nothing is created before ``create`` or the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.policies = path / "policies"
        self.checkpoints = path / "checkpoints"
        self.numbers = path / "numbers"
        self.logs = path / "logs"
        self.tensorboard = path / "tensorboard"
        self._directories = [self.policies, self.checkpoints, self.logs, self.tensorboard]

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def create(self) -> Self:
        """Create missing directories, which only this user can enter. Raises ConfigurationError."""
        try:
            if not self.policies.is_dir():
                check_may_be_made_private(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=PRIVATE, exist_ok=True)
            check_own(self.path)
            for directory in self._directories:
                directory.mkdir(mode=PRIVATE, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"choose a writable --run-dir: cannot write into the run directory {self.path}: "
                f"{error.strerror or error}"
            ) from error
        return self

    def restrict(self, *, group_readable: bool) -> None:
        """Let only the owner, or also the group, enter the directories of the run. Raises ConfigurationError."""
        restrict_directories(self.path, self._directories, group_readable=group_readable)

    def run_config(self) -> RunConfig | None:
        """Return the configuration for actors, or None before the learner wrote it. Raises ConfigurationError."""
        return self._read("run.json", RunConfig)

    def write_run_config(self, config: RunConfig) -> None:
        replace_file(self.path / "run.json", encode_run_config(config))

    def options(self) -> dict[str, Any] | None:
        """Return the flags that the run was started with, or None. Raises ConfigurationError."""
        return self._read("options.json", dict[str, Any])

    def write_options(self, options: dict[str, Any]) -> None:
        self._write("options.json", options)

    def progress(self) -> Progress | None:
        """Return the last report of the learner, or None before the first. Raises ConfigurationError."""
        return self._read("progress.json", Progress)

    def write_progress(self, progress: Progress) -> None:
        self._write("progress.json", progress)

    def summary(self) -> Summary | None:
        """Return the summary of the run, or None before its end. Raises ConfigurationError."""
        return self._read("summary.json", Summary)

    def write_summary(self, summary: Summary) -> None:
        self._write("summary.json", summary)

    def _read(self, name: str, kind: type[_Content]) -> _Content | None:
        path = self.path / name
        try:
            data = self._bytes(name)
            content = msgspec.json.decode(data, type=kind)
            # Actors read run.json of others. The other files are read often, and by their writers.
            key = repeated_key(data) if kind is RunConfig else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error
        except NotRegularFileError as error:
            raise ConfigurationError(
                f"remove {path}: expected a file of at most {_MAX_BYTES} bytes, found {error}"
            ) from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigurationError(f"use the release that wrote {path}, or remove it: {error}") from error
        if key is not None:
            raise ConfigurationError(f"start the learner again to write {path}: the key {key!r} occurs twice there")
        return content

    def _bytes(self, name: str) -> bytes:
        """Return a file of the run, which another user may have written: a pipe would block, a device never end."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            data = read_regular_file(directory, name, _MAX_BYTES)
        finally:
            os.close(directory)
        if len(data) > _MAX_BYTES:
            raise NotRegularFileError(f"more than {_MAX_BYTES} bytes")
        return data

    def _write(self, name: str, content: object) -> None:
        replace_file(self.path / name, msgspec.json.format(msgspec.json.encode(content), indent=1))

    def forget_summary(self) -> None:
        """Remove the summary of an earlier session: readers take a summary for the end of the run."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def env_id(self) -> str | None:
        """Return the id of the environment, or None if this is not a run."""
        config = self.run_config()
        if config is not None:
            return config.env_id
        env_id = (self.options() or {}).get("env")
        return env_id if isinstance(env_id, str) else None

    def has_version(self) -> bool:
        return any(self.policies.glob("v*/manifest.json"))

    def has_checkpoint(self) -> bool:
        return self.newest_checkpoint() is not None

    def newest_checkpoint(self) -> tuple[int, int] | None:
        """Return the number and modification time (ns) of the newest checkpoint file, valid or not, or None.

        A number is used again if the earlier checkpoint of that number could not be read.
        """
        found = {
            int(name[1]): path
            for path in self.checkpoints.glob("checkpoint-*.pt")
            if (name := CHECKPOINT_NAME.fullmatch(path.name)) is not None
        }
        if not found:
            return None
        number = max(found)
        try:
            return number, found[number].stat().st_mtime_ns
        except OSError:  # removed meanwhile
            return number, 0

    def sweep(self) -> None:
        """Remove the unfinished files of killed processes."""
        sweep_dead_writers(self.path)

    def lock_learner(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the learner. Raises StoreLocked if another learner trains here."""
        return _hold_lock(self.path / "learner.lock", "learner")

    def lock_supervisor(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the supervisor. Raises StoreLocked if another supervisor runs here."""
        return _hold_lock(self.path / "supervisor.lock", "supervisor")

    def learner_alive(self) -> bool:
        return _is_locked(self.path / "learner.lock")

    def live(self) -> bool:
        """Return True while a learner trains here, or a supervisor is about to start one."""
        return self.learner_alive() or _is_locked(self.path / "supervisor.lock")


def new_run_directory(env_id: str, root: Path = DEFAULT_ROOT) -> RunDirectory:
    """Create a new directory below ``root``, named after environment and time. Raises ConfigurationError."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", env_id).strip("-.") or "run"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return RunDirectory(root / f"{slug}-{stamp}-{secrets.token_hex(3)}").create()


def find_run(env_id: str, root: Path = DEFAULT_ROOT) -> RunDirectory | None:
    """Return the newest live run of ``env_id``, else the newest run with a policy version, else None.

    Runs of other users are found only by their path: they may have placed them where this user looks.
    """
    runs = [run for run in _newest_first(root) if _trains(run, env_id)]
    live = next((run for run in runs if run.live()), None)
    return live or next((run for run in runs if run.has_version()), None)


def _newest_first(root: Path) -> list[RunDirectory]:
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        times = [_modified(path / name) for name in ("run.json", "options.json")]
        if any(times):
            found.append((max(times), path.name, RunDirectory(path)))
    return [run for _, _, run in sorted(found, key=lambda item: item[:2], reverse=True)]


def _trains(run: RunDirectory, env_id: str) -> bool:
    with contextlib.suppress(ConfigurationError, OSError):
        return is_own(run.path) and run.env_id() == env_id
    return False


def _modified(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


@contextlib.contextmanager
def _hold_lock(path: Path, role: str) -> Iterator[None]:
    """Hold a lock file. Raises StoreLocked if another process does, ConfigurationError if it cannot be opened."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+b", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"remove what is there, or choose another --run-dir: cannot open the {role}'s lock file {path}: "
            f"{error.strerror or error}"
        ) from error
    with opened as file:
        _acquire(file.fileno(), path, role)
        with contextlib.suppress(OSError):  # the process id is only for messages, and the disk may be full
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would block
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error


def _acquire(descriptor: int, path: Path, role: str) -> None:
    deadline_s = time.monotonic() + _LOCK_PATIENCE_S  # ``_is_locked`` holds the lock for an instant
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                raise StoreLocked(
                    f"stop the other {role}, or choose another --run-dir: process {path.read_text() or 'unknown'} "
                    f"already runs a {role} in {path.parent}"
                ) from error
            time.sleep(0.02)
