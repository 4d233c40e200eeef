"""What an actor tells the person who started it: a line for each new version and each episode, and a last one."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from loguru import logger

from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from actor.session.episode_log import EpisodeLog


class Say(Protocol):
    def __call__(self, line: str, /) -> None: ...


def say(line: str) -> None:
    """Print now, also where the output is a file or a pipe. A disk that takes no more stops no acting."""
    try:
        print(line, flush=True)  # noqa: T201
    except BrokenPipeError:
        raise  # nobody reads any more: that ends the command
    except OSError as error:
        logger.debug("could not print: {}", error)


def say_nothing(line: str) -> None:
    """For an actor whose supervisor tells what there is to tell."""


class SessionReport:
    """Counts episodes up to ``wanted`` (None: for ever), and tells of them; ``log`` is a file for JSON lines."""

    def __init__(self, tell: Say, wanted: int | None, log: Path | None) -> None:
        self.say = tell
        self.episodes = 0
        self._wanted = wanted
        self._returns = 0.0
        self._acting: LoadedPolicy | None = None
        self._log = None if log is None else EpisodeLog(log)

    @property
    def done(self) -> bool:
        """Whether as many episodes as were wanted have ended."""
        return self._wanted is not None and self.episodes >= self._wanted

    def tell(self, acting: LoadedPolicy, finished: Sequence[FinishedEpisode]) -> None:
        """Tell of the policy that acts now, if it is a new one, and of the episodes that ended, up to those wanted."""
        if acting is not self._acting:
            self._acting = acting
            self.say(f"version {acting.version} acts now ({acting.engine_name}, digest {acting.digest[:12]})")
        if self.say is say_nothing and self._log is None and self._wanted is None:
            return
        for episode in finished:
            if self.done:
                return
            self.episodes += 1
            self._returns += episode.episode_return
            self.say(
                f"episode {self.episodes}: return {episode.episode_return:g}, length {episode.length}, "
                f"{_versions(episode.versions)}"
            )
            if self._log is not None:
                self._log.write(self.episodes, episode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.episodes:
            plural = "episode" if self.episodes == 1 else "episodes"
            self.say(f"{self.episodes} {plural}, mean return {self._returns / self.episodes:g}")
        if self._log is not None:
            self._log.close()


def _versions(versions: Sequence[int]) -> str:
    if len(versions) == 1:
        return f"version {versions[0]}"
    if len(versions) <= 4:
        return f"versions {', '.join(map(str, versions))}"
    return f"versions {versions[0]}, {versions[1]} … {versions[-1]} ({len(versions)} in all)"
