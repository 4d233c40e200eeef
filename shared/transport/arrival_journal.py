"""What a learner has heard of, written down as it hears it: a kill takes its memory, and must not take the count.

One line of JSON for each time that more was heard of a sender: ``["actor-0","3f…",17]`` says that 17 rollouts of that
life of that actor were received or announced. The highest of each sender counts, so a line may stand there twice, and
one that a kill cut short says nothing.
"""

import contextlib
from pathlib import Path

import msgspec
from loguru import logger

from shared.errors import ConfigurationError
from shared.run_directory import replace_file

_COMPACT_AFTER_LINES = 20_000

_encode = msgspec.json.Encoder().encode
_line: msgspec.json.Decoder[tuple[str, str, int]] = msgspec.json.Decoder(tuple[str, str, int])


class ArrivalJournal:
    """A file that outlives its learner. Not synced: it has to survive a killed process, not a power cut.

    ``heard`` is what it says of each (actor id, incarnation).
    """

    def __init__(self, path: Path) -> None:
        """Read what is there, and go on with it. Raises ConfigurationError where the file cannot be had."""
        self._path = path
        self._failed = False
        self.heard: dict[tuple[str, str], int] = {}
        try:
            self._read()
            self._compact()
        except OSError as error:
            raise ConfigurationError(f"cannot keep the journal {path}: {error.strerror or error}") from error

    def note(self, actor_id: str, incarnation: str, heard: int) -> None:
        """``heard`` rollouts of that life were heard of by now. A full disk is logged, and stops nothing."""
        self.heard[actor_id, incarnation] = heard
        try:
            self._file.write(_encode((actor_id, incarnation, heard)) + b"\n")
            self._lines += 1
            if self._lines > _COMPACT_AFTER_LINES + len(self.heard):
                self._file.close()
                self._compact()
        except (OSError, ValueError) as error:  # ValueError: closed, as it could not be opened again
            if not self._failed:
                logger.warning(
                    "cannot write {} ({}: {}); should this learner be killed, what it heard may go uncounted",
                    self._path,
                    type(error).__name__,
                    error,
                )
            self._failed = True

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._file.close()

    def _read(self) -> None:
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # cut short
                actor_id, incarnation, heard = _line.decode(line)
                self.heard[actor_id, incarnation] = max(heard, self.heard.get((actor_id, incarnation), 0))

    def _compact(self) -> None:
        """One line a sender. The old file stands until the new one is whole."""
        lines = [_encode((*sender, heard)) + b"\n" for sender, heard in self.heard.items()]
        replace_file(self._path, b"".join(lines))
        self._file = self._path.open("ab", buffering=0)
        self._lines = len(lines)
