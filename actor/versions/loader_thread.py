"""The loader of an agent: a thread that looks at the store, loads what should act next, and rests."""

import math
import threading
import time
from collections.abc import Sequence
from functools import partial

from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from actor.versions.follow_rules import Pinned
from actor.versions.load_barrier import LoadBarrier
from actor.versions.policy_manager import PolicyManager
from actor.versions.reports import Attempts, is_interrupt
from actor.versions.selection_strategy import SelectionStrategy
from actor.versions.staleness import StalenessMonitor
from actor.versions.store_listing import StoreListing
from actor.versions.version_life import VersionState
from actor.versions.version_loading import VersionLoader
from actor.versions.version_source import VersionSource
from actor.watching.wake_up import WakeUp

_REST_S = 120.0
"""The longest rest while nothing in the store changes."""
_REST_AFTER_FAULT_S = 0.25


class PolicyLoader:
    """Owns all store I/O of one agent.

    ``start`` loads on a thread from then on. Without it the caller drives ``load_pending``. Only the newest version
    matters: versions that were superseded while another one was loading are never loaded.
    """

    def __init__(
        self,
        listing: StoreListing,
        manager: PolicyManager,
        strategy: SelectionStrategy,
        loading: VersionLoader,
        *,
        source: VersionSource | None = None,
        staleness: StalenessMonitor | None = None,
        name: str = "agent",
    ) -> None:
        self.manager = manager
        self.watcher = listing.watcher
        self.load_barrier = LoadBarrier()
        self.is_waited_for = False
        """True while the acting thread waits for a version."""
        self._listing = listing
        self._versions = manager.versions
        self._strategy = strategy
        self._loading = loading
        self._source = source or VersionSource()
        self._staleness = staleness or StalenessMonitor(math.inf, alarming=False)
        self._name = name
        self.reports = loading.reports
        self._attempts = Attempts(loading.reports)
        self._wake = listing.wake
        self._news = WakeUp()
        self._turn = threading.Lock()  # its holder may move versions
        self._closing = False
        self._thread: threading.Thread | None = None

    # Called on the acting thread.

    def start(self) -> None:
        """Load on a background thread from now on, as soon as the store changes."""
        self._thread = threading.Thread(target=self._work, name=f"{self._name}-loader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and the watcher. Idempotent; waits at most five seconds for a load that is under way."""
        self._closing = True
        self._wake.set()
        self._loading.engines.cancel()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None
        self._source.close()
        self._loading.engines.close()
        self.watcher.stop()

    @property
    def is_prefetching(self) -> bool:
        """True while the version source watches the store and verifies."""
        return self._source.is_active

    def wait_for_news(self, timeout_s: float) -> None:
        """Return when a version became ready or failed, after ``timeout_s`` at the latest."""
        self.is_waited_for = True
        self._news.wait(timeout_s)
        self.is_waited_for = False
        self._news.clear()

    def holds(self, version: int) -> bool:
        """Return True if ``version`` or a newer one acts or is ready; else look at the store again.

        Always True with a strategy that decides with other actors: they may hold any version back.
        """
        if self._strategy.decides_with_others:
            return True
        self.take_prefetched()
        held = self.manager.held_version
        if held is not None and held >= version:
            return True
        if version not in self.watcher.known:
            self._wake.set()
        return False

    def take_prefetched(self) -> None:
        """Take a version from the source, if it offers one; while the loader works, the next call does."""
        if not self._source.has_news or not self._turn.acquire(blocking=False):
            return
        try:
            if self._source.take():
                self._wake.set()
        finally:
            self._turn.release()

    def has_failed(self, version: int) -> bool:
        """Return True if ``version`` could not be loaded, until its retry or for good."""
        return self._versions.state(version) is VersionState.FAILED

    def next_try_s(self) -> float:
        """Return the seconds until ``load_pending`` has a retry to make, or should look for missed events."""
        return min(self.watcher.interval_s, self._next_retry_s())

    def episode_began(self) -> None:
        """Prepare the version of the next episode, if the strategy chooses one for each."""
        if self._strategy.episode_began():
            self._wake.set()

    def episodes_ended(self, finished: Sequence[FinishedEpisode]) -> None:
        """Pass finished episodes to the strategy."""
        self._strategy.episodes_ended(finished)

    def acting_failed(self, digest: str, reason: str) -> None:
        """Share the quarantine of the version that acted, and look for another one."""
        self._loading.quarantine.failed_while_acting(digest, reason)
        self._wake.set()

    def describe_failures(self) -> str:
        """Return each failed version with its reason, or else why no version can act."""
        failures = [record.describe_failure() for record in self._versions.failures()]
        if self._listing.fault is not None:
            failures.insert(0, f"the store: {self._listing.fault}")
        if failures:
            return "; ".join(failures)
        known, follow = self.watcher.known, self._strategy.follow
        if not self.watcher.has_listed:
            return "it has not been read yet: give it more time"
        if not known:
            return "no version has been published there yet"
        if isinstance(follow, Pinned) and follow.version not in known:
            return f"version {follow.version} is not among its {len(known)} versions ({known[0]} to {known[-1]})"
        return "no version has been loaded yet"

    # Called on the loader thread.

    def load_pending(self) -> None:
        """Look at the store and load what should act next. Never sleeps, never raises."""
        attempt = self._attempts.run
        attempt("strategy", self._strategy.look)
        attempt("loading", self._load_selected)
        attempt("trimming", self.manager.trim_spares)
        attempt("quarantine", partial(self._loading.quarantine.share, self._strategy.failed))
        attempt("age", self._report_age)

    def _load_selected(self) -> None:
        if self._listing.look():
            while not self._closing and (version := self._select()) is not None:
                self._load(version)
                self._listing.look()

    def _work(self) -> None:
        self._attempts.run("preparation", self._loading.engines.prepare)
        self._attempts.run("watching", self.watcher.start)
        while not self._closing:
            self._wake.clear()
            self._attempts.run("events", self.watcher.read_events)
            self._attempts.run("source", self._keep_source)
            with self._turn:
                self.load_pending()
            if not self._attempts.run("rest", self._rest):
                time.sleep(_REST_AFTER_FAULT_S)

    def _rest(self) -> None:
        """Wait until something may be due. Each wake-up of an idle actor finds cold caches, so there are few."""
        wait_s, rest_s = self.next_try_s(), self._rest_s()
        began_s = time.monotonic()
        while not self._wake.wait(wait_s):
            if time.monotonic() - began_s >= rest_s or not self.watcher.is_untouched():
                return

    def _rest_s(self) -> float:
        if self._strategy.decides_with_others or self.watcher.is_delegated:
            return 0.0  # other actors write notes, and a source may end
        return min(_REST_S, self._staleness.stale_after_s, self._next_retry_s())

    def _next_retry_s(self) -> float:
        retry_s = self._versions.next_retry_s(time.monotonic())
        return min(math.inf if retry_s is None else retry_s, self._listing.next_retry_s())

    def _keep_source(self) -> None:
        if self._source.keep(self._wake, self._news):
            self.watcher.delegate()
            for version in self._source.announced():
                self.watcher.announce(version)
        elif self.watcher.is_delegated:
            self.watcher.start()
            self._listing.look(force=True)

    def _select(self) -> int | None:
        version = self._strategy.select(self._listing.known, self._versions.unusable(time.monotonic()))
        return version if version is not None and self._source.leaves_to_loader(version) else None

    def _load(self, version: int) -> None:
        began_s = time.monotonic()
        with self.load_barrier.loading():
            policy = self._loading.load(version, self._strategy.take_spare)
            if policy is not None and not self._place(policy):
                policy = None
        if policy is not None and self._source.loaded(0.0 if self.is_waited_for else time.monotonic() - began_s):
            self._wake.set()
        self._news.set()

    def _place(self, policy: LoadedPolicy) -> bool:
        """Give ``policy`` its role. Return False if that failed: otherwise it would be loaded again at once."""
        try:
            self._strategy.place(policy)
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._loading.failed(policy.version, policy.digest, error)
            return False
        return True

    def _report_age(self) -> None:
        if not isinstance(self._strategy.follow, Pinned):
            newest = self.manager.newest
            manifest = None if newest is None else newest.manifest
            self.reports.extend(self._staleness.reports(manifest, self._listing.known, time.monotonic(), time.time()))
