"""Progress of a training for users: ``progress.json`` for the live display, and TensorBoard scalars.

TensorBoard's own writer prints a traceback on a thread when the disk is full; here, ``write`` raises OSError.
"""

import errno
import io
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary as ScalarSummary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from learner.ppo.learner import UpdateMetrics
from learner.publishing.error_throttle import ErrorThrottle
from shared.run.progress import Phase, Progress, Summary
from shared.run.run_directory import RunDirectory

if TYPE_CHECKING:
    from learner.training.learner_loop import LearnerLoop

_PROGRESS_PERIOD_S = 0.25
_SCALARS_PERIOD_S = 1.0
_RATE_WINDOW_S = 3.0


class TrainingObserver:
    """Writes the progress a few times a second. Failed writes are logged and never stop the training."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._scalars = _Scalars(run.tensorboard)
        self._rate: deque[tuple[float, int]] = deque()
        self._next_progress_s = 0.0
        self._errors = ErrorThrottle("writing progress.json")

    def after_update(self, loop: "LearnerLoop", metrics: UpdateMetrics | None) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + _PROGRESS_PERIOD_S
            self.report(loop, "training")
        self._scalars.after_update(loop, metrics, self._steps_per_s(now_s, loop.counters.env_steps))

    def report(self, loop: "LearnerLoop", phase: Phase) -> None:
        now_s = time.monotonic()
        progress = Progress(
            phase=phase,
            env_steps=loop.counters.env_steps,
            steps_per_s=self._steps_per_s(now_s, loop.counters.env_steps),
            episodes=loop.episodes.finished,
            mean_return=loop.episodes.mean_return,
            updates=loop.counters.updates,
            version=loop.publisher.latest_version,
            lag=loop.lag,
            reloads=loop.counters.reloads,
            skipped_updates=loop.counters.skipped_updates,
            actor_restarts=loop.receiver.actor_restarts,
            rollouts=loop.receiver.accounts,
            train_s=loop.clock.train_s,
            updated_unix_s=time.time(),
        )
        try:
            self._run.write_progress(progress)
        except OSError as error:
            self._errors.failed(error, "training continues")
        else:
            self._errors.worked()

    def _steps_per_s(self, now_s: float, env_steps: int) -> float:
        self._rate.append((now_s, env_steps))
        while now_s - self._rate[0][0] > _RATE_WINDOW_S and len(self._rate) > 1:
            self._rate.popleft()
        began_s, began_steps = self._rate[0]
        return (env_steps - began_steps) / (now_s - began_s) if now_s > began_s else 0.0

    def close(self) -> None:
        self._scalars.close()


def summarise(loop: "LearnerLoop") -> Summary:
    """Return the summary of the training so far."""
    train_s = loop.clock.train_s
    return Summary(
        solved=loop.counters.time_to_target_s is not None,
        env_steps=loop.counters.env_steps,
        wall_s=loop.clock.wall_s,
        time_to_target_s=loop.counters.time_to_target_s,
        mean_return=loop.episodes.mean_return,
        steps_per_s=loop.counters.env_steps / train_s if train_s else 0.0,
        versions_published=loop.publisher.published.count,
        reloads=loop.counters.reloads,
        skipped_updates=loop.counters.skipped_updates,
        actor_restarts=loop.receiver.actor_restarts,
        rollouts=loop.receiver.accounts,
    )


class _Scalars:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._errors = ErrorThrottle("writing to TensorBoard")
        self._file: ScalarFile | None = None
        self._next_s = time.monotonic() + _SCALARS_PERIOD_S
        self._write({}, 0)

    def after_update(self, loop: "LearnerLoop", metrics: UpdateMetrics | None, steps_per_s: float) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _SCALARS_PERIOD_S
        losses = {} if metrics is None else asdict(metrics)
        scalars: dict[str, float] = {f"losses/{name}": value for name, value in losses.items()}
        scalars |= {
            "charts/steps_per_s": steps_per_s,
            "charts/lag": loop.lag,
            "charts/version": loop.publisher.latest_version or 0,
            "charts/reloads": loop.counters.reloads,
            "charts/skipped_updates": loop.counters.skipped_updates,
        }
        if loop.episodes.mean_return is not None:
            scalars["charts/mean_return"] = loop.episodes.mean_return
        accounts = loop.receiver.accounts
        scalars |= {f"rollouts/{name}": getattr(accounts, name) for name in accounts.__struct_fields__}
        self._write(scalars, loop.counters.env_steps)

    def _write(self, scalars: Mapping[str, float], env_steps: int) -> None:
        """Write now. After an error the file may end in half a record, so the next call begins a new file."""
        try:
            if self._file is None:
                self._file = ScalarFile(self._directory)
            self._file.write(scalars, env_steps)
        except OSError as error:
            self._errors.failed(error, "training continues")
            self.close()
        else:
            self._errors.worked()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # logged before, or about data that is lost anyway
                file.close()


class ScalarFile:
    """New file in TensorBoard's format in ``directory``. After an OSError it cannot be used further."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        now_unix_s = time.time()
        name = f"events.out.tfevents.{int(now_unix_s):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (directory / name).open("xb", buffering=0)
        self._append(Event(wall_time=now_unix_s, file_version="brain.Event:2"))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Append one value of each scalar, at ``step``. Raises OSError."""
        values = [ScalarSummary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=ScalarSummary(value=values)))

    def _append(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        data = record.getvalue()
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()
