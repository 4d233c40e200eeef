"""An actor's report: printed lines for new versions and episodes, a summary, and the episode log."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from loguru import logger

from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from shared.errors import ConfigurationError
from shared.process import terminal


def print_line(line: str) -> None:
    """Print and flush ``line``. Errors of the disk are logged; BrokenPipeError ends the command."""
    try:
        terminal.print_line(line)
    except BrokenPipeError:
        raise
    except OSError as error:
        logger.debug("line not printed error={}", error)


def print_nothing(line: str) -> None:
    """Ignore ``line``."""


class EpisodeLog:
    """A file with one line of JSON for each episode. Lines are on disk when ``write`` returns; a full disk delays them.

    Raises ConfigurationError if the file cannot be created.
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
        line: dict[str, object] = {"episode": number, "return": episode.episode_return, "length": episode.length}
        line |= {"version": episode.version, "versions": episode.versions, "digest": episode.digest}
        self._unwritten += msgspec.json.encode(line) + b"\n"
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not self._is_failing:
                logger.warning("episode log cannot be written; acting continues path={} error={}", self._path, error)
        self._is_failing = bool(self._unwritten)

    def close(self) -> None:
        self._flush()
        self._file.close()


class SessionReport:
    """Prints and counts episodes, up to ``wanted`` (None: no limit); ``log`` is the path of the episode log."""

    def __init__(self, print_line: Callable[[str], None], wanted: int | None, log: Path | None) -> None:
        self.print_line = print_line
        self.episodes = 0
        self._wanted = wanted
        self._returns = 0.0
        self._acting: LoadedPolicy | None = None
        self._log = None if log is None else EpisodeLog(log)

    @property
    def done(self) -> bool:
        """True when the wanted number of episodes has ended."""
        return self._wanted is not None and self.episodes >= self._wanted

    def add(self, acting: LoadedPolicy, finished: Sequence[FinishedEpisode]) -> None:
        """Report the acting policy if it is new, and the finished episodes up to the wanted number."""
        if acting is not self._acting:
            self._acting = acting
            self.print_line(f"version {acting.version} acts now ({acting.engine_name}, digest {acting.digest[:12]})")
        if self.print_line is print_nothing and self._log is None and self._wanted is None:
            return
        for episode in finished:
            if self.done:
                return
            self.episodes += 1
            self._returns += episode.episode_return
            self.print_line(
                f"episode {self.episodes}: return {episode.episode_return:g}, length {episode.length}, "
                f"{_versions(episode.versions)}"
            )
            if self._log is not None:
                self._log.write(self.episodes, episode)

    def close(self) -> None:
        """Print the summary and close the episode log."""
        if self.episodes:
            plural = "episode" if self.episodes == 1 else "episodes"
            self.print_line(f"{self.episodes} {plural}, mean return {self._returns / self.episodes:g}")
        if self._log is not None:
            self._log.close()


def _versions(versions: Sequence[int]) -> str:
    if len(versions) <= 4:
        return f"version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))}"
    return f"versions {versions[0]}, {versions[1]} … {versions[-1]} ({len(versions)} in all)"
