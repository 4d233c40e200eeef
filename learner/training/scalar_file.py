"""Scalars in TensorBoard's file format, written on the calling thread: a full disk raises OSError.

TensorBoard's own writer has a thread, which prints a traceback and ends when the disk is full.
"""

import errno
import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class ScalarFile:
    """New events file in ``directory``. After an OSError, here or in ``write``, it cannot be used further."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        now_unix_s = time.time()
        name = f"events.out.tfevents.{int(now_unix_s):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (directory / name).open("xb", buffering=0)
        self._append(Event(wall_time=now_unix_s, file_version="brain.Event:2"))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Append one value of each scalar, at ``step``. Raises OSError."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        data = record.getvalue()
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()
