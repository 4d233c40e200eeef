"""One training on disk: where its policies, checkpoints and logs are, whether its learner lives, and how it gets on.

    runs/CartPole-v1-20250131-140501-a1b2c3/
      policies/  checkpoints/  logs/  tensorboard/
      numbers/        the highest version number that was used (shared.store.used_numbers)
      options.json    the flags that it was started with; what --resume goes on with
      run.json        what actors must know (shared.run.run_config.RunConfig)
      progress.json   several times a second while it trains
      summary.json    when it has ended
      arrivals.jsonl  which rollouts the learner has heard of (shared.transport.arrival_journal)
      learner.key     with --listen: the learner's keys, and
      actor.key       the one file that an actor elsewhere needs (shared.transport.transport_keys)
      learner.lock    locked (flock) while a learner lives: the kernel lets go of it however the learner ends
      supervisor.lock the same for scripts/train.py, which holds it while it restarts a learner that died

Every JSON file is replaced whole, so that a reader sees either the old one or the new one.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from shared.errors import ConfigurationError
from shared.files.small_files import replace_file, sweep_dead_writers
from shared.run.progress import Progress, Summary, decode_progress, decode_summary, encode_report
from shared.run.run_config import RunConfig, decode_run_config, encode_run_config
from shared.run.run_locks import hold_lock, is_locked

DEFAULT_ROOT = Path("runs")

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{9})\.pt")
"""What a checkpoint is called; the group is the number of updates that it was made after."""


class RunDirectory:
    """The files of one run. Nothing is created before ``create`` or the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.policies = path / "policies"
        self.checkpoints = path / "checkpoints"
        self.numbers = path / "numbers"
        self.logs = path / "logs"
        self.tensorboard = path / "tensorboard"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def create(self) -> Self:
        """Make the directory and its parts where they are missing. Raises ConfigurationError where it can't."""
        try:
            for directory in (self.policies, self.checkpoints, self.logs, self.tensorboard):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write into the run directory {self.path}: {error.strerror or error}"
            ) from error
        return self

    def run_config(self) -> RunConfig | None:
        """What the learner wrote for its actors, or None where it has not yet. Raises ConfigurationError."""
        data = _read(self.path / "run.json")
        return None if data is None else decode_run_config(data)

    def write_run_config(self, config: RunConfig) -> None:
        replace_file(self.path / "run.json", encode_run_config(config))

    def options(self) -> dict[str, Any] | None:
        """The flags that the run was started with, or None. Raises ConfigurationError."""
        data = _read(self.path / "options.json")
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self.path / 'options.json'} is not readable: {error}") from error

    def write_options(self, options: dict[str, Any]) -> None:
        replace_file(self.path / "options.json", msgspec.json.format(msgspec.json.encode(options), indent=1))

    def progress(self) -> Progress | None:
        """The learner's last report, or None before its first. Raises ConfigurationError."""
        data = _read(self.path / "progress.json")
        return None if data is None else decode_progress(data)

    def write_progress(self, progress: Progress) -> None:
        replace_file(self.path / "progress.json", encode_report(progress))

    def summary(self) -> Summary | None:
        """What came of the run, or None while it has not ended. Raises ConfigurationError."""
        data = _read(self.path / "summary.json")
        return None if data is None else decode_summary(data)

    def write_summary(self, summary: Summary) -> None:
        replace_file(self.path / "summary.json", encode_report(summary))

    def forget_summary(self) -> None:
        """The run goes on: a summary from before would be taken for its end."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def env_id(self) -> str | None:
        """The environment that the run trains on, or None where this is no run."""
        config = self.run_config()
        if config is not None:
            return config.env_id
        env_id = (self.options() or {}).get("env")
        return env_id if isinstance(env_id, str) else None

    def has_version(self) -> bool:
        """Whether at least one policy version was published here and not swept."""
        return any(self.policies.glob("v*/manifest.json"))

    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return self.newest_checkpoint() is not None

    def newest_checkpoint(self) -> tuple[int, int] | None:
        """The number of the newest checkpoint, whole or not, and when it was written; None where there is none.

        When: in ns of the file system's clock. A number comes again where the one before could not be read.
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
        except OSError:  # taken away just now
            return number, 0

    def sweep(self) -> None:
        """Remove what killed processes left half written."""
        sweep_dead_writers(self.path)

    @contextlib.contextmanager
    def lock_learner(self) -> Iterator[None]:
        """Held while the learner lives. Raises StoreLocked where another one trains here."""
        with hold_lock(self.path / "learner.lock", "learner"):
            yield

    @contextlib.contextmanager
    def lock_supervisor(self) -> Iterator[None]:
        """Held while a supervisor lives. Raises StoreLocked where another one runs here."""
        with hold_lock(self.path / "supervisor.lock", "supervisor"):
            yield

    def learner_alive(self) -> bool:
        """Whether a learner trains here now; right even after ``kill -9``."""
        return is_locked(self.path / "learner.lock")

    def live(self) -> bool:
        """Whether a learner trains here, or a supervisor is about to start (or restart) one."""
        return self.learner_alive() or is_locked(self.path / "supervisor.lock")


def new_run_directory(env_id: str, root: Path = DEFAULT_ROOT) -> RunDirectory:
    """A fresh directory, named for the environment and the time. Raises ConfigurationError where it can't be made."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", env_id).strip("-.") or "run"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return RunDirectory(root / f"{slug}-{stamp}-{secrets.token_hex(3)}").create()


def find_run(env_id: str, root: Path = DEFAULT_ROOT) -> RunDirectory | None:
    """The run of ``env_id`` that is live, else the newest that has a version, else None. Of several, the newest.

    A directory that this release cannot read is passed over: it is somebody else's.
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
    try:
        return run.env_id() == env_id
    except ConfigurationError:
        return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error
