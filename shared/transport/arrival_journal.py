"""What a learner has heard of, written down as it hears it: a kill takes its memory, and must not take the count.

One line of JSON for each time that more was heard of a sender: ``["actor-0","3f…",17]`` says that 17 rollouts of that
life of that actor were received or announced. The highest of each sender counts, so a line may stand there twice, and
one that a kill cut short says nothing.
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
    """A file that outlives its learner. Not synced: it has to survive a killed process, not a power cut.

    ``heard`` is what it says of each (actor id, session_id).
    """

    def __init__(self, path: Path) -> None:
        """Read what is there, and go on with it. Raises ConfigurationError where it cannot be read or made.

        One that is there and cannot be written to is like a disk that fills up later: no reason not to train.
        """
        self._path = path
        self._failed = False
        self._is_closed = False
        self.heard: dict[tuple[str, str], int] = {}
        self._file: BinaryIO | None = None
        self._lines = 0
        try:
            is_there = self._read()
        except OSError as error:
            raise ConfigurationError(f"cannot read the journal {path}: {error.strerror or error}") from error
        try:
            self._compact()
        except OSError as error:
            if not is_there:
                raise ConfigurationError(f"cannot keep the journal {path}: {error.strerror or error}") from error
            self._warn(error)

    def note(self, actor_id: str, session_id: str, heard: int) -> None:
        """``heard`` rollouts of that life were heard of by now. A full disk is logged, and stops nothing."""
        self.heard[actor_id, session_id] = heard
        if self._is_closed:
            return
        try:
            if self._file is None or self._lines > _COMPACT_AFTER_LINES + len(self.heard):
                self._compact()
                return
            self._file.write(_encode((actor_id, session_id, heard)) + b"\n")
            self._lines += 1
        except OSError as error:
            self._let_go()  # what was cut short is written again, with all the rest
            self._warn(error)

    def close(self) -> None:
        """Note nothing more. Idempotent."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _warn(self, error: OSError) -> None:
        if not self._failed:
            logger.warning(
                "cannot write {} ({}: {}); should this learner be killed, what it heard may go uncounted",
                self._path,
                type(error).__name__,
                error,
            )
        self._failed = True

    def _read(self) -> bool:
        """Whether there was anything to read."""
        is_there = self._path.exists()
        for line in self._path.read_bytes().splitlines() if is_there else []:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # cut short
                actor_id, session_id, heard = _line.decode(line)
                self.heard[actor_id, session_id] = max(heard, self.heard.get((actor_id, session_id), 0))
        return is_there

    def _compact(self) -> None:
        """One line a sender. The old file stands until the new one is whole."""
        lines = [_encode((*sender, heard)) + b"\n" for sender, heard in self.heard.items()]
        self._let_go()
        replace_file(self._path, b"".join(lines))
        self._file = self._path.open("ab", buffering=0)
        self._lines = len(lines)
        self._failed = False
