"""The policies that one agent holds, by role, and the engines that can be reused.

Two threads meet here. Only the acting thread changes the acting policy (``adopt``, ``fail_acting``), by changing
references. The loader thread offers policies and takes engines that do not act. Nothing loads, sleeps or frees an
engine on the acting thread.
"""

import threading
from typing import Protocol

from actor.loading.loaded_policy import LoadedPolicy
from actor.versions.version_life import VersionState, VersionTable
from shared.engines.engine import Engine, EngineKind


class Assignment(Protocol):
    """Assigns episodes to a candidate or to the version that it is compared with. Only the acting thread uses it."""

    def candidate_acts(self, baseline: LoadedPolicy, candidate: LoadedPolicy | None, *, begins_episodes: bool) -> bool:
        """Return True when ``candidate`` acts from here on instead of ``baseline``."""


class PolicyManager:
    """The roles of the loaded versions: a version without a role is retired.

    At rest at most three engines are alive: those of the acting and the last good policy, and that of the standby or a
    spare. Draws from history and a candidate add one each.

    Args:
        versions: The table that records which versions are loaded.
        assignment: Decides when a candidate acts; None where there are no candidates.
    """

    def __init__(self, versions: VersionTable, assignment: Assignment | None = None) -> None:
        self.versions = versions
        self._assignment = assignment
        self._lock = threading.Lock()
        self._current: LoadedPolicy | None = None  # the newest adopted
        self._episode: LoadedPolicy | None = None  # acts instead: one drawn from history, or the candidate
        self._candidate: LoadedPolicy | None = None
        self._ready: LoadedPolicy | None = None  # the standby
        self._drawn: LoadedPolicy | None = None
        self._last_good: LoadedPolicy | None = None
        self._spares: list[Engine] = []
        self._highest_acted: int | None = None

    @property
    def acting(self) -> LoadedPolicy | None:
        """The acting policy; None before the first adoption."""
        return self._episode or self._current

    @property
    def newest(self) -> LoadedPolicy | None:
        """The newest adopted policy. It acts, except in episodes drawn from history or assigned to a candidate."""
        return self._current

    @property
    def has_draw(self) -> bool:
        """True while an older version waits for the next whole reset."""
        return self._drawn is not None

    @property
    def held(self) -> LoadedPolicy | None:
        """The standby, or else the newest adopted policy."""
        with self._lock:  # adopt changes both references: between the two, nothing would be held
            return self._ready or self._current

    @property
    def held_version(self) -> int | None:
        """The version of ``held``."""
        held = self.held
        return None if held is None else held.version

    @property
    def candidate(self) -> LoadedPolicy | None:
        """The policy in canary evaluation, whether it acts now or not."""
        return self._candidate

    @property
    def highest_acted(self) -> int | None:
        """The highest version that ever acted."""
        return self._highest_acted

    def versions_in_memory(self) -> frozenset[int]:
        """Return the versions that have a role."""
        with self._lock:
            return frozenset(policy.version for policy in self._held_policies())

    def engines_alive(self) -> int:
        """Return the number of different engines held, spares included."""
        with self._lock:
            return len({id(policy.engine) for policy in self._held_policies()}) + len(self._spares)

    # Called on the loader thread.

    def offer(self, policy: LoadedPolicy) -> None:
        """Make a verified policy the standby. It replaces a standby that was not adopted in time."""
        with self._lock:
            self.versions.move(policy.version, VersionState.LOADED)
            self._make_ready(policy)

    def offer_candidate(self, policy: LoadedPolicy) -> None:
        """Make a verified policy the candidate."""
        with self._lock:
            self.versions.move(policy.version, VersionState.LOADED)
            self._candidate = policy

    def promote_candidate(self, policy: LoadedPolicy) -> None:
        """Make ``policy`` the standby if it is the candidate."""
        with self._lock:
            if self._candidate is policy:
                self._candidate = None
                self._make_ready(policy)

    def withdraw_candidate(self, policy: LoadedPolicy) -> None:
        """End the candidacy of ``policy`` if it is the candidate. It acts until the next ``adopt`` at most."""
        with self._lock:
            if self._candidate is policy:
                self._candidate = None
                self._release(policy)

    def discard(self, policy: LoadedPolicy) -> None:
        """Give a verified policy no role: it came too late."""
        with self._lock:
            self.versions.move(policy.version, VersionState.SKIPPED)
            self._release(policy)

    def offer_draw(self, policy: LoadedPolicy) -> None:
        """Let a verified older policy act from the next whole reset on, for one episode."""
        with self._lock:
            self.versions.move(policy.version, VersionState.LOADED)
            self._drawn = policy

    def draw_held(self, version: int) -> bool:
        """Let a policy that is in memory act the next episode. Return False if ``version`` is not in memory."""
        with self._lock:
            held = next((p for p in (self._episode, self._last_good) if p is not None and p.version == version), None)
            self._drawn = held or self._drawn
            return held is not None

    def take_spare(self, kind: EngineKind, program_digest: str, *, withdraw_ready: bool) -> Engine | None:
        """Return an engine of this program whose weights may be overwritten; None without such a program in memory.

        Without a spare the standby gives up its engine if ``withdraw_ready``, since a newer version is about to take
        its place. Otherwise the engine is a twin of one in use.
        """
        with self._lock:
            for i, engine in enumerate(self._spares):
                if engine.kind == kind and engine.program_digest == program_digest:
                    return self._spares.pop(i)
            held = self._held_policies()
            fit = [p for p in held if p.engine.kind == kind and p.engine.program_digest == program_digest]
            if withdraw_ready and self._ready in fit:
                ready, self._ready = self._ready, None
                return ready.engine
        return fit[0].engine.twin() if fit else None  # outside of the lock: this can take a while

    def trim_spares(self) -> None:
        """Free all spare engines except the newest."""
        with self._lock:
            freed, self._spares = self._spares[:-1], self._spares[-1:]
        del freed  # outside of the lock: this can take a while

    # Called on the acting thread.

    def adopt(self, *, begins_episodes: bool) -> LoadedPolicy | None:
        """Switch to the standby if there is one, and return the acting policy.

        A draw from history begins and ends with a whole reset; until then the standby waits.
        """
        if self._ready is None and self._drawn is None and self._episode is None and self._candidate is None:
            return self._current
        with self._lock:
            if self._assignment is None and self._episode is not None and not begins_episodes:
                return self._episode
            ended, self._episode = self._episode, None
            self._adopt_ready()
            self._choose_episode(begins_episodes=begins_episodes)
            if ended is not None:
                self._release(ended)
            return self._note_acting()

    def fail_acting(self, reason: str) -> LoadedPolicy | None:
        """Quarantine the acting policy and what else is held with the same content.

        Returns the last good policy, which acts from here on, or None if none is left.
        """
        with self._lock:
            failed = self._episode or self._current
            if failed is None:
                return None
            self._drop(failed, reason)
            return self._note_acting()

    def _choose_episode(self, *, begins_episodes: bool) -> None:
        if self._assignment is None:
            if begins_episodes:
                self._episode, self._drawn = self._drawn, None
        elif self._current is not None and self._assignment.candidate_acts(
            self._current, self._candidate, begins_episodes=begins_episodes
        ):
            self._episode = self._candidate

    def _adopt_ready(self) -> None:
        if self._ready is None:
            return
        displaced = self._last_good
        self._last_good, self._current, self._ready = self._current, self._ready, None
        if displaced is not None:
            self._release(displaced)

    def _make_ready(self, policy: LoadedPolicy) -> None:
        superseded, self._ready = self._ready, policy
        if superseded is not None:
            self._release(superseded)

    def _drop(self, failed: LoadedPolicy, reason: str) -> None:
        standing_by = (self._ready, self._drawn, self._candidate)
        same = {policy.version for policy in standing_by if policy is not None and policy.digest == failed.digest}
        for version in same | {failed.version}:
            self.versions.fail(version, reason, digest=failed.digest)
        keep = [None if p is None or p.digest == failed.digest else p for p in self._roles()]
        self._current, self._episode, self._ready, self._drawn, self._last_good, self._candidate = keep
        if self._current is None:
            self._current, self._last_good = self._last_good, None
        if self._current is None:
            self._current, self._candidate = self._candidate, None  # better the candidate than nothing

    def _note_acting(self) -> LoadedPolicy | None:
        acting = self._episode or self._current
        if acting is not None:
            before = acting.version if self._highest_acted is None else self._highest_acted
            self._highest_acted = max(acting.version, before)
        return acting

    def _release(self, policy: LoadedPolicy) -> None:
        """Keep the engine of ``policy`` as a spare unless a role needs it."""
        if all(other.engine is not policy.engine for other in self._held_policies()):
            self._spares.append(policy.engine)

    def _roles(self) -> tuple[LoadedPolicy | None, ...]:
        return (self._current, self._episode, self._ready, self._drawn, self._last_good, self._candidate)

    def _held_policies(self) -> list[LoadedPolicy]:
        return [policy for policy in self._roles() if policy is not None]
