"""The policies that one agent holds: the one that acts, its standby, the last good one, and engines to be used again.

Two threads meet here. The acting thread alone changes what acts (``adopt``, ``fail_acting``), by changing references;
the loader's thread offers policies and takes engines that no longer act. Nothing here loads, sleeps or frees an
engine on the acting thread.
"""

import threading

from actor.canary.canary_assignment import CanaryAssignment
from actor.loading.loaded_policy import LoadedPolicy
from actor.versions.version_life import VersionState, VersionTable
from shared.engines.engine import Engine, EngineKind

_IN_USE = (VersionState.READY, VersionState.ACTING)


class PolicyManager:
    """At rest three engines at most: acting, last good, and a spare or the standby.

    Draws from history add theirs, and a version on trial, which ``assignment`` let act now and then, its own.
    """

    def __init__(self, versions: VersionTable, assignment: CanaryAssignment | None = None) -> None:
        self.versions = versions
        self._assignment = assignment
        self._lock = threading.Lock()
        self._current: LoadedPolicy | None = None  # the newest adopted
        self._episode: LoadedPolicy | None = None  # an older one, drawn for this episode, or the one on trial
        self._candidate: LoadedPolicy | None = None  # on trial
        self._ready: LoadedPolicy | None = None
        self._drawn: LoadedPolicy | None = None
        self._last_good: LoadedPolicy | None = None
        self._spares: list[Engine] = []
        self._highest_acted: int | None = None

    @property
    def acting(self) -> LoadedPolicy | None:
        """The policy that acts, or None before the first adoption."""
        return self._episode or self._current

    @property
    def newest(self) -> LoadedPolicy | None:
        """The newest adopted policy; what acts, but for episodes that were drawn from history."""
        return self._current

    @property
    def has_draw(self) -> bool:
        """Whether an older version waits for the next whole reset."""
        return self._drawn is not None

    @property
    def held_version(self) -> int | None:
        """The best version that acts or is ready to, draws from history apart."""
        with self._lock:  # between two references that change together, nothing would seem to be held
            held = self._ready or self._current
            return None if held is None else held.version

    @property
    def candidate(self) -> LoadedPolicy | None:
        """The policy on trial, whether it acts now or not."""
        return self._candidate

    @property
    def standing(self) -> LoadedPolicy | None:
        """The newest policy that acts as of right, or is about to: neither on trial nor drawn from history."""
        with self._lock:
            return self._ready or self._current

    @property
    def highest_acted(self) -> int | None:
        """The highest version ever acted with."""
        return self._highest_acted

    def versions_in_memory(self) -> frozenset[int]:
        """Every version that is held, in whatever role."""
        with self._lock:
            return frozenset(policy.version for policy in self._roles() if policy is not None)

    def engines_alive(self) -> int:
        """How many different engines are held, spares included."""
        with self._lock:
            return len({id(policy.engine) for policy in self._roles() if policy is not None}) + len(self._spares)

    # What the loader's thread does.

    def offer(self, policy: LoadedPolicy) -> None:
        """A verified policy becomes the standby; one that nobody adopted in time makes way."""
        with self._lock:
            self.versions.move(policy.version, VersionState.READY)
            superseded, self._ready = self._ready, policy
            if superseded is not None:
                self.versions.move(superseded.version, VersionState.RETIRED)
                self._release(superseded)

    def offer_candidate(self, policy: LoadedPolicy) -> None:
        """A verified policy is on trial from now on."""
        with self._lock:
            self.versions.move(policy.version, VersionState.READY)
            self._candidate = policy

    def promote_candidate(self, policy: LoadedPolicy) -> None:
        """The trial is over: ``policy``, where it is still the one on trial, becomes the standby."""
        with self._lock:
            if self._candidate is policy:
                superseded, self._ready, self._candidate = self._ready, policy, None
                if superseded is not None:
                    self._retire(superseded)

    def withdraw_candidate(self, policy: LoadedPolicy) -> None:
        """The trial is over: ``policy``, where it is still the one on trial, acts no longer than this turn."""
        with self._lock:
            if self._candidate is policy:
                self._candidate = None
                if self._episode is not policy:
                    self._retire(policy)

    def discard(self, policy: LoadedPolicy) -> None:
        """A verified policy came too late for any role."""
        with self._lock:
            self.versions.move(policy.version, VersionState.SKIPPED)
            self._release(policy)

    def offer_draw(self, policy: LoadedPolicy) -> None:
        """A verified older policy waits for the next whole reset."""
        with self._lock:
            self.versions.move(policy.version, VersionState.READY)
            self._drawn = policy

    def draw_held(self, version: int) -> bool:
        """Let a policy that is held anyway act in the next episode. False where ``version`` is not held."""
        with self._lock:
            held = next((p for p in (self._episode, self._last_good) if p is not None and p.version == version), None)
            self._drawn = held or self._drawn
            return held is not None

    def take_spare(self, kind: EngineKind, program_digest: str, *, withdraw_ready: bool) -> Engine | None:
        """An engine of this program that may be written to, or None where the program is not here.

        Where no other is left and ``withdraw_ready``, the standby gives up its own: its successor is about to take
        its place. Else it is a twin of one that has to stay as it is.
        """
        with self._lock:
            for i, engine in enumerate(self._spares):
                if engine.kind == kind and engine.program_digest == program_digest:
                    return self._spares.pop(i)
            held = [policy for policy in self._roles() if policy is not None]
            fit = [p for p in held if p.engine.kind == kind and p.engine.program_digest == program_digest]
            if withdraw_ready and self._ready in fit:
                ready, self._ready = self._ready, None
                self.versions.move(ready.version, VersionState.RETIRED)
                return ready.engine
        return fit[0].engine.twin() if fit else None  # outside of the lock: this can take a while

    def trim_spares(self) -> None:
        """Free all engines that no longer act but the one that retired last."""
        with self._lock:
            freed, self._spares = self._spares[:-1], self._spares[-1:]
        del freed  # outside of the lock: this can take a while

    # What the acting thread does.

    def adopt(self, *, begins_episodes: bool) -> LoadedPolicy | None:
        """Act with what is ready, if anything is, and return what acts now.

        A draw from history begins and ends with whole episodes only; meanwhile what is ready waits.
        """
        if self._ready is None and self._drawn is None and self._episode is None and self._candidate is None:
            return self._current
        with self._lock:
            before = self._episode or self._current
            if self._assignment is not None:
                return self._take_turn(self._assignment, before, begins_episodes=begins_episodes)
            if self._episode is not None and not begins_episodes:
                return before
            ended, self._episode = self._episode, None
            self._adopt_ready()
            if begins_episodes and self._drawn is not None:
                self._episode, self._drawn = self._drawn, None
            if ended is not None:
                self._release(ended)
            return self._now_acts(before)

    def fail_acting(self, reason: str) -> LoadedPolicy | None:
        """Quarantine what acts now; the last good policy takes its place. Returns it, or None where nothing is left.

        Whatever else is held with the same content goes too.
        """
        with self._lock:
            failed = self._episode or self._current
            if failed is None:
                return None
            self.versions.fail(failed.version, reason, digest=failed.digest)
            self._drop(failed.digest, reason)
            return self._now_acts(None)

    def _take_turn(
        self, assignment: CanaryAssignment, before: LoadedPolicy | None, *, begins_episodes: bool
    ) -> LoadedPolicy | None:
        ended, self._episode = self._episode, None
        self._adopt_ready()
        current, candidate = self._current, self._candidate
        if current is not None and assignment.candidate_acts(current, candidate, begins_episodes=begins_episodes):
            self._episode = candidate
        now = self._now_acts(before)
        if ended is not None:
            self._retire(ended)
        return now

    def _adopt_ready(self) -> None:
        if self._ready is None:
            return
        displaced = self._last_good
        self._last_good, self._current, self._ready = self._current, self._ready, None
        if self._last_good is not None and self.versions.state(self._last_good.version) is VersionState.READY:
            self.versions.move(self._last_good.version, VersionState.RETIRED)  # a drawn one acted all the while
        if displaced is not None:
            self._release(displaced)

    def _drop(self, digest: str, reason: str) -> None:
        for policy in (self._ready, self._drawn, self._candidate):
            if policy is not None and policy.digest == digest:
                self.versions.fail(policy.version, reason, digest=digest)
        keep = [None if p is None or p.digest == digest else p for p in self._roles()]
        self._current, self._episode, self._ready, self._drawn, self._last_good, self._candidate = keep
        if self._current is None:
            self._current, self._last_good = self._last_good, None
        if self._current is None:
            self._current, self._candidate = self._candidate, None  # better one on trial than nothing

    def _now_acts(self, before: LoadedPolicy | None) -> LoadedPolicy | None:
        acting = self._episode or self._current
        if acting is None or acting is before:
            return acting
        if before is not None and self.versions.state(before.version) is VersionState.ACTING:
            self.versions.move(before.version, VersionState.RETIRED)  # else its trial has failed meanwhile
        if self.versions.state(acting.version) is not VersionState.ACTING:
            self.versions.move(acting.version, VersionState.ACTING)
        self._highest_acted = max(acting.version, -1 if self._highest_acted is None else self._highest_acted)
        return acting

    def _retire(self, policy: LoadedPolicy) -> None:
        """It has this role no more: where it has no other either, its engine is a spare."""
        if all(other is not policy for other in self._roles()) and self.versions.state(policy.version) in _IN_USE:
            self.versions.move(policy.version, VersionState.RETIRED)
        self._release(policy)

    def _release(self, policy: LoadedPolicy) -> None:
        """Keep the engine of a policy that has no role any more as a spare."""
        if all(other is None or other.engine is not policy.engine for other in self._roles()):
            self._spares.append(policy.engine)

    def _roles(self) -> tuple[LoadedPolicy | None, ...]:
        return (self._current, self._episode, self._ready, self._drawn, self._last_good, self._candidate)
