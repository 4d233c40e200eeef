"""Finished episodes as JSON lines, for whoever wants to look at them later."""

from pathlib import Path

import msgspec
from loguru import logger

from actor.rollouts.episodes import FinishedEpisode
from shared.errors import ConfigurationError


class EpisodeLog:
    """Writes ``{"episode", "return", "length", "version", "versions", "digest"}``, one object a line.

    ``version`` and ``digest`` began the episode, ``versions`` acted in it. Lines are on disk when ``write`` returns, so
    that a reader can follow. Raises ConfigurationError where the file cannot be made; a disk that is full later stops
    no acting.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise ConfigurationError(f"cannot write the episode log {path}: {error.strerror or error}") from error
        self._path = path
        self._unwritten = b""
        self._is_failing = False

    def write(self, number: int, episode: FinishedEpisode) -> None:
        """Append one episode; ``number`` counts from 1."""
        line = {
            "episode": number,
            "return": episode.episode_return,
            "length": episode.length,
            "version": episode.version,
            "versions": episode.versions,
            "digest": episode.digest,
        }
        self._unwritten += msgspec.json.encode(line) + b"\n"
        self._flush()

    def _flush(self) -> None:
        """Write what can be written; the rest, when there is room again."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not self._is_failing:
                logger.warning("cannot write the episode log {} ({}); acting goes on", self._path, error)
            self._is_failing = True
        else:
            self._is_failing = False

    def close(self) -> None:
        self._flush()
        self._file.close()
