"""The episodes that ended in a rollout, computed from its arrays so that the acting loop does no work for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import msgspec
import numpy as np

from shared.rollouts.rollout import EpisodeEnds, Rollout

_NOT_BEGUN = -1  # the episode's first action is in the next rollout


class FinishedEpisode(msgspec.Struct, frozen=True, gc=False):
    """One episode. ``version`` and ``digest`` began it; ``versions`` acted in it; ``row`` is its environment."""

    episode_return: float
    length: int
    version: int
    versions: tuple[int, ...]
    digest: str
    row: int = 0


_Acted = tuple[int, tuple[int, ...], str]  # version, versions and digest of a FinishedEpisode


class FinishedEpisodes(Sequence[FinishedEpisode]):
    """The episodes of one rollout by column, made at access. ``began`` is each episode's key of ``acted``."""

    def __init__(
        self, ends: EpisodeEnds, acted: Mapping[int, _Acted], began: Sequence[int], rows: Sequence[int]
    ) -> None:
        self.ends = ends
        self._acted = acted
        self._began = began
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[FinishedEpisode]:
        returns, lengths = self.ends.returns, self.ends.lengths
        for episode_return, length, began, row in zip(returns, lengths, self._began, self._rows, strict=True):
            yield FinishedEpisode(episode_return, length, *self._acted[began], row)

    @overload
    def __getitem__(self, at: int) -> FinishedEpisode: ...
    @overload
    def __getitem__(self, at: slice) -> list[FinishedEpisode]: ...
    def __getitem__(self, at: int | slice) -> FinishedEpisode | list[FinishedEpisode]:
        return list(self)[at]


class EpisodeTracker:
    """Follows the running episodes of ``batch_size`` environments from rollout to rollout."""

    def __init__(self, batch_size: int) -> None:
        self._return = np.zeros(batch_size, np.float64)
        self._length = np.zeros(batch_size, np.int64)
        self._acted: list[tuple[int, str]] = []  # one (version, digest) for each change
        self._began = np.full(batch_size, _NOT_BEGUN, np.int64)  # the index in _acted at which each episode began

    def restart(self) -> None:
        """Forget the running episodes: every environment was reset."""
        self._return[:] = self._length[:] = 0
        self._began[:] = _NOT_BEGUN

    def acting(self, version: int, digest: str) -> None:
        """Record the version of the rollout that begins now."""
        if not self._acted or self._acted[-1] != (version, digest):
            self._drop_unused()
            self._acted.append((version, digest))
        self._began[self._began == _NOT_BEGUN] = len(self._acted) - 1

    def finish(self, rollout: Rollout, *, steps_to_next: int) -> FinishedEpisodes:
        """Return the episodes that ended in ``rollout``, in the order of their ends.

        ``steps_to_next`` counts from an episode's last action to the next one's first: 2 under next-step autoreset.
        """
        ended = _by_row((rollout.terminated | rollout.truncated) & rollout.valid)
        rows, times = np.divmod(np.flatnonzero(ended), rollout.length)  # row by row, each in order of time
        first = np.concatenate(([True], rows[1:] != rows[:-1]))[: rows.size]
        last = np.concatenate((first[1:], [True]))[: rows.size]
        # Each row is divided into stretches: one up to and with each end, and the rest after the last end.
        begins = np.ones_like(ended)
        begins[:, 1:] = ended[:, :-1]
        starts = np.flatnonzero(begins)
        is_over = ended.ravel()[np.append(starts[1:], ended.size) - 1]
        over, left = np.flatnonzero(is_over), np.flatnonzero(~is_over)
        first_episodes, rows_left = np.flatnonzero(first), starts[left] // rollout.length
        first_rows = rows[first_episodes]

        def sums(steps: np.ndarray, carried: np.ndarray) -> np.ndarray:
            """Return the sum of ``steps`` [T, B] over each episode; advance ``carried`` [B] to the rollout's end."""
            stretches = np.add.reduceat(_by_row(steps).ravel(), starts, dtype=carried.dtype)
            episodes: np.ndarray = stretches[over]
            episodes[first_episodes] += carried[first_rows]
            carried[first_rows] = 0
            carried[rows_left] += stretches[left]
            return episodes

        episode_returns = sums(np.where(rollout.valid, rollout.reward, 0), self._return)
        episode_lengths = sums(rollout.valid, self._length)
        now = len(self._acted) - 1
        began = np.where(first, self._began[rows], now)
        self._began[rows[last]] = np.where(times[last] + steps_to_next < rollout.length, now, _NOT_BEGUN)
        order = np.argsort(times.astype(np.min_scalar_type(rollout.length)), kind="stable")  # few bits: radix sort
        columns = (episode_returns, episode_lengths, rows, began)
        returns, lengths, row, indices = (each[order].tolist() for each in columns)
        acted = {index: self._acted_since(index) for index in set(indices)}
        began_by = [version for version, _, _ in acted.values()]
        versions = began_by * len(indices) if len(acted) <= 1 else [acted[index][0] for index in indices]
        return FinishedEpisodes(EpisodeEnds(returns, lengths, versions), acted, indices, row)

    def _acted_since(self, began: int) -> _Acted:
        version, digest = self._acted[began]
        return version, tuple(dict.fromkeys(acted for acted, _ in self._acted[began:])), digest

    def _drop_unused(self) -> None:
        needed_from = int(np.min(self._began, initial=len(self._acted), where=self._began != _NOT_BEGUN))
        del self._acted[:needed_from]
        self._began[self._began != _NOT_BEGUN] -= needed_from


def _by_row(array: np.ndarray) -> np.ndarray:
    rows: np.ndarray = np.ascontiguousarray(array.T)
    return rows
