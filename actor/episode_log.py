"""Finished episodes as JSON lines, for whoever wants to look at them later."""

from pathlib import Path

import msgspec

from actor.episode_tracker import FinishedEpisode
from shared.errors import ConfigurationError


class EpisodeLog:
    """Writes ``{"episode", "return", "length", "version", "versions", "digest"}``, one object a line.

    ``version`` and ``digest`` began the episode, ``versions`` acted in it. Lines are on disk when ``write`` returns, so
    that a reader can follow. Raises ConfigurationError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise ConfigurationError(f"cannot write the episode log {path}: {error.strerror or error}") from error

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
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
