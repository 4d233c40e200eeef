"""Journal of the rollouts that a learner has received, so that accounts stay exact when the learner is killed.

Each line is JSON: ``["actor-0","3f…",17]`` means that 17 rollouts of that session of that actor were received or
announced. The highest count of a sender is valid, so lines may repeat; a truncated line is ignored.
"""

import contextlib
from pathlib import Path
from typing import BinaryIO

import msgspec
from loguru import logger

from shared.errors import ConfigurationError
from shared.files.small_files import replace_file

_COMPACT_AFTER_LINES = 20_000

_encode = msgspec.json.Encoder().encode
_line: msgspec.json.Decoder[tuple[str, str, int]] = msgspec.json.Decoder(tuple[str, str, int])


class ArrivalJournal:
    """Counts by (actor id, session id) in a file that is not synced: it survives a killed process, not a power cut."""

    def __init__(self, path: Path) -> None:
        """Read the file, if any, and continue it. Raises ConfigurationError if it cannot be read or created.

        If an existing file cannot be written, training continues with a warning, as on a disk that becomes full.
        """
        self._path = path
        self._failed = False
        self._is_closed = False
        self.counts: dict[tuple[str, str], int] = {}
        self._file: BinaryIO | None = None
        self._lines = 0
        try:
            existed = self._read()
        except OSError as error:
            raise ConfigurationError(f"cannot read the journal {path}: {error.strerror or error}") from error
        try:
            self._compact()
        except OSError as error:
            if not existed:
                raise ConfigurationError(f"cannot create the journal {path}: {error.strerror or error}") from error
            self._warn(error)

    def write(self, actor_id: str, session_id: str, count: int) -> None:
        """Record the number of rollouts of a session so far. Errors of the disk are logged, not raised."""
        self.counts[actor_id, session_id] = count
        if self._is_closed:
            return
        try:
            if self._file is None or self._lines > _COMPACT_AFTER_LINES + len(self.counts):
                self._compact()
                return
            self._file.write(_encode((actor_id, session_id, count)) + b"\n")
            self._lines += 1
        except OSError as error:
            self._close_file()  # the next write replaces the file, with its truncated line
            self._warn(error)

    def forget(self, actor_id: str, session_id: str) -> None:
        """Leave out a session from now on. Its lines are removed when the file is next compacted."""
        self.counts.pop((actor_id, session_id), None)

    def close(self) -> None:
        """Close the file. Later writes are ignored."""
        self._is_closed = True
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _warn(self, error: OSError) -> None:
        if not self._failed:
            logger.warning(
                "journal not written, a killed learner may lose counts path={} error={!r}", self._path, str(error)
            )
        self._failed = True

    def _read(self) -> bool:
        existed = self._path.exists()
        for line in self._path.read_bytes().splitlines() if existed else []:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # truncated
                actor_id, session_id, count = _line.decode(line)
                self.counts[actor_id, session_id] = max(count, self.counts.get((actor_id, session_id), 0))
        return existed

    def _compact(self) -> None:
        lines = [_encode((*sender, count)) + b"\n" for sender, count in self.counts.items()]
        self._close_file()
        replace_file(self._path, b"".join(lines))
        self._file = self._path.open("ab", buffering=0)
        self._lines = len(lines)
        self._failed = False
