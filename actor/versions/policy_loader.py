"""Makes versions READY on a background thread: selects, verifies, retries what may pass, quarantines what will not."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from actor.canary.canary_evaluation import CanaryEvaluation
from actor.loading.engine_fallback import EngineFallback
from actor.loading.loaded_policy import LoadResult
from actor.loading.weight_preloading import TakeSpare
from actor.prefetch.prefetcher import Prefetcher
from actor.versions.load_barrier import LoadBarrier
from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_cache import QuarantineCache
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.staleness import StalenessMonitor
from actor.versions.version_life import VersionRecord, VersionState, VersionTable
from actor.versions.version_selection import Follow, History, Pinned, draw_older, select_version
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.engines.engine import Engine, EngineKind
from shared.errors import (
    DigestMismatch,
    HotswapError,
    StoreError,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
    one_line,
)
from shared.retry import RetrySchedule
from shared.store.authenticity import Authenticity
from shared.store.policy_store import PolicyStore

_REPORTS_KEPT = 1000
_REST_S = 120.0  # while nothing happens to the store, all else is looked at this often


@dataclass(frozen=True)
class LoaderReport:
    """One line for the agent to log: the loader's own thread has no place in the log that a person would look for."""

    level: str
    message: str


class PolicyLoader:
    """Owns all store I/O of one agent, and its engines.

    ``start`` works on a background thread from then on; without it the caller drives ``load_pending`` by hand, and
    everything happens there. Only the newest matters: what came and went while another version was loading is never
    looked at.
    """

    def __init__(
        self,
        store: PolicyStore,
        manager: PolicyManager,
        versions: VersionTable,
        engines: EngineFallback,
        follow: Follow,
        *,
        name: str,
        seed: int = 0,
        retry: RetrySchedule | None = None,
        watcher: PolicyWatcher | None = None,
        authenticity: Authenticity | None = None,
        freshness: StalenessMonitor | None = None,
        canary: CanaryEvaluation | None = None,
        remembered: QuarantineCache | None = None,
        prefetcher: Prefetcher | None = None,
    ) -> None:
        self._store = store
        self._authenticity = authenticity or Authenticity()
        self._freshness = freshness or StalenessMonitor(float("inf"), alarming=False)
        self._manager = manager
        self._canary = canary
        self._versions = versions
        self._engines = engines
        self._follow = follow
        self._name = name
        self._retry = retry or RetrySchedule()
        self._draws = np.random.default_rng([seed, 0xD6A2])
        self._draw_wanted = isinstance(follow, History)
        self._wake = WakeUp()
        self._news = WakeUp()
        self._is_waited_for = False
        self._prefetcher = prefetcher
        self._turn = threading.Lock()  # whose holder may move versions
        self._closing = False
        self._thread: threading.Thread | None = None
        self._reports: deque[LoaderReport] = deque(maxlen=_REPORTS_KEPT)
        self._store_failures = 0
        self._store_retry_at_s = 0.0
        self._store_fault: str | None = None
        self._failures = QuarantineReporter(store, remembered, name, self._report)
        self.load_barrier = LoadBarrier()
        self.watcher = watcher or PolicyWatcher(store, self._wake)

    # What the acting thread calls.

    def start(self) -> None:
        """Load on a background thread from now on, as soon as the store changes."""
        self._thread = threading.Thread(target=self._work, name=f"{self._name}-loader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and the watcher. Idempotent; waits a few seconds at most for a load that is under way."""
        self._closing = True
        self._wake.set()
        self._engines.cancel()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._engines.close()
        self.watcher.stop()

    @property
    def is_prefetching(self) -> bool:
        """Whether a process of its own watches the store and verifies."""
        return self._prefetcher is not None and self._prefetcher.is_at_work

    @property
    def has_reports(self) -> bool:
        """Whether there is anything to log; costs next to nothing."""
        return bool(self._reports)

    def take_reports(self) -> Iterator[LoaderReport]:
        """What happened since the last call, oldest first."""
        while self._reports:
            yield self._reports.popleft()

    def wait_for_news(self, timeout_s: float) -> None:
        """Return when something became ready or failed, after ``timeout_s`` at the latest."""
        self._is_waited_for = True
        self._news.wait(timeout_s)
        self._is_waited_for = False
        self._news.clear()

    def holds(self, version: int) -> bool:
        """Whether ``version`` or a newer one acts or is ready to; where not, the store is looked at again.

        Nobody waits for a version that has to be tried first.
        """
        if self._canary is not None:
            return True
        self.take_prefetched()
        held = self._manager.held_version
        if held is not None and held >= version:
            return True
        if version not in self.watcher.known:
            self._wake.set()
        return False

    def take_prefetched(self) -> None:
        """Make READY what a prefetcher has verified, if anything; where the loader is at work, the next call does."""
        if self._prefetcher is None or not self._prefetcher.has_news or not self._turn.acquire(blocking=False):
            return
        try:
            if self._prefetcher.take():
                self._wake.set()
        finally:
            self._turn.release()

    def has_failed(self, version: int) -> bool:
        """Whether ``version`` could not be made ready, this time or for good."""
        return self._versions.state(version) is VersionState.FAILED

    def next_try_s(self) -> float:
        """Seconds until ``load_pending`` has something to try again, or should look for events that were missed."""
        return min(self.watcher.interval_s, self._next_retry_s())

    def episode_began(self) -> None:
        """Decide by whom the next episode is acted, and have it prepared where that is an older version."""
        if isinstance(self._follow, History):
            self._draw_wanted = True
            self._wake.set()

    def acting_failed(self, digest: str, reason: str) -> None:
        """What acted was quarantined: advise others of it, and look for something else where nothing is left."""
        self._failures.failed_while_acting(digest, reason)
        self._wake.set()

    def describe_failures(self) -> str:
        """Every version that was tried and why it failed, or what else is known of there being nothing to act with."""
        failures = [record.describe_failure() for record in self._versions.failures()]
        if self._store_fault is not None:
            failures.insert(0, f"the store: {self._store_fault}")
        if failures:
            return "; ".join(failures)
        known = self.watcher.known
        if not self.watcher.has_listed:
            return "it has not been read yet: give it more time"
        if not known:
            return "no version has been published there yet"
        if isinstance(self._follow, Pinned) and self._follow.version not in known:
            return f"version {self._follow.version} is not among its {len(known)} versions ({known[0]} to {known[-1]})"
        return "no version has been loaded yet"

    # What happens on the loader's thread.

    def load_pending(self) -> None:
        """Look at the store, and make ready what should act next. Never sleeps, never raises."""
        try:
            if self._canary is not None:
                self._see_trials(self._canary)
            if self._look():
                while not self._closing and (version := self._select()) is not None:
                    self._load(version)
                    self._look()
                self._prepare_draw()
            self._manager.trim_spares()
            self._failures.pass_on(self._canary)
            self._remark_on_age()
        except Exception as error:  # noqa: BLE001 - what acts must go on, and later versions must be looked for
            self._report("ERROR", f"the loader stumbled: {type(error).__name__}: {error}")

    def _work(self) -> None:
        self._engines.prepare()
        self.watcher.start()
        while not self._closing:
            self._wake.clear()
            self.watcher.read_events()
            self._keep_prefetcher()
            with self._turn:
                self.load_pending()
            self._rest()

    def _rest(self) -> None:
        """Wait until something may be due. An idle actor does nothing else, each time with cold caches: so, little."""
        wait_s, rest_s = self.next_try_s(), self._rest_s()
        began_s = time.monotonic()
        while not self._wake.wait(wait_s):
            if time.monotonic() - began_s >= rest_s or not self.watcher.is_untouched():
                return

    def _rest_s(self) -> float:
        """How long nothing is due, as long as the store stays as it is."""
        if self._canary is not None or self.watcher.is_delegated:
            return 0.0  # trials are looked at in the notes of others, and a prefetcher may die
        return min(_REST_S, self._freshness.stale_after_s, self._next_retry_s())

    def _next_retry_s(self) -> float:
        now_s = time.monotonic()
        waits = [self._versions.next_retry_s(now_s), self._store_retry_at_s - now_s]
        return min((wait for wait in waits if wait is not None and wait > 0), default=math.inf)

    def _keep_prefetcher(self) -> None:
        """While a prefetcher is at work, nobody here listens for events."""
        if self._prefetcher is None:
            return
        if self._prefetcher.keep(self._wake, self._news):
            if not self.watcher.is_delegated:
                self._report("INFO", "a process beside this one watches the store and verifies from now on")
            self.watcher.delegate()
            for version in self._prefetcher.announced_versions():
                self.watcher.announce(version)
        elif self.watcher.is_delegated:
            self._report("INFO", f"the process beside this one is done without ({self._prefetcher.last_end})")
            self.watcher.start()
            self._look(force=True)

    def _look(self, *, force: bool = False) -> bool:
        """Learn which versions there are. False where the store did not answer, or is not to be asked yet."""
        if time.monotonic() < self._store_retry_at_s:
            return False
        try:
            changed = self.watcher.check(force=force)
        except StoreError as error:
            self._store_failed(error)
            return False
        if self._store_fault is not None:
            self._report("INFO", f"the store answers again: {self._store}")
        self._store_fault, self._store_failures, self._store_retry_at_s = None, 0, 0.0
        if changed:
            self._versions.see(self.watcher.known, self._manager.versions_in_memory())
        return True

    def _store_failed(self, error: StoreError) -> None:
        self._store_failures += 1
        self._store_retry_at_s = time.monotonic() + self._retry.delay_s(self._store_failures)
        if self._store_fault is None:
            self._report("WARNING", f"{error}; trying again until it answers")
        self._store_fault = str(error)

    def _see_trials(self, canary: CanaryEvaluation) -> None:
        for remark in canary.look():
            self._report(*remark)
        for digest, reason in canary.take_advice():
            self._failures.failed_while_acting(digest, reason)

    def _select(self) -> int | None:
        if self._canary is not None:
            return self._canary.select(self.watcher.known, self._versions.unusable(time.monotonic()))
        version = select_version(
            self._follow,
            self.watcher.known,
            self._versions.unusable(time.monotonic()),
            self._manager.held_version,
            self._manager.highest_acted,
        )
        is_ours = version is None or self._prefetcher is None or self._prefetcher.leaves(version)
        return version if is_ours else None

    def _load(self, version: int) -> None:
        began_s = time.monotonic()
        with self.load_barrier.loading():
            result = self._load_version(version, self._spare_or_standby if self._canary is None else self._spare)
            if result is None:
                return
            if self._canary is None:
                self._manager.offer(result.policy)
            else:
                self._canary.place(result.policy)
        if self._prefetcher is not None:
            load_s = 0.0 if self._is_waited_for else time.monotonic() - began_s
            if self._prefetcher.loaded(load_s):
                self._wake.set()
        self._news.set()

    def _prepare_draw(self) -> None:
        """Draw, once an episode, whether an older version acts the next one, and make it ready."""
        newest = self._manager.newest
        if not isinstance(self._follow, History) or not self._draw_wanted or newest is None or self._manager.has_draw:
            return
        self._draw_wanted = False
        coin, place = self._draws.random(2)
        if coin >= self._follow.probability:
            return
        version = draw_older(self.watcher.known, self._versions.unusable(time.monotonic()), newest.version, place)
        if version is None or self._manager.draw_held(version):
            return
        result = self._load_version(version, self._spare)
        if result is not None:
            self._manager.offer_draw(result.policy)

    def _load_version(self, version: int, take_spare: TakeSpare) -> LoadResult | None:
        """Load one version; every failure ends in the table and in the log."""
        self._versions.move(version, VersionState.LOADING)
        digest = None
        try:
            files = self._authenticity.open(self._store, version)
            digest = files.manifest.digest
            reason = self._versions.quarantine_reason(digest) or self._failures.from_before(digest)
            if reason is not None:
                self._versions.fail(version, reason, digest=digest)
                self._report("ERROR", f"version {version} has a content that is quarantined: {reason}")
                return None
            result = self._engines.load(files, take_spare)
        except Exception as error:  # noqa: BLE001 - whatever a version does to us, we go on
            self._fail(version, digest, error)
            return None
        self._authenticity.pin(files.manifest)
        if (line := result.describe()) is not None:
            self._report("WARNING", line)
        return result

    def _fail(self, version: int, digest: str | None, error: Exception) -> None:
        reason = one_line(f"{type(error).__name__}: {error}")
        is_transient = isinstance(error, TransientLoadError | StoreUnavailable | VersionNotFound | MemoryError)
        if not is_transient:
            # A mismatch of bytes blames this copy of the version, not its content: another copy may be right.
            blamed = None if isinstance(error, DigestMismatch) else digest
            record = self._versions.fail(version, reason, digest=blamed)
            if blamed is not None and isinstance(error, HotswapError):
                self._failures.failed_to_load(blamed, reason)
            self._report("ERROR", f"version {version} is quarantined: {reason}")
        else:
            record = self._fail_transiently(version, reason)
        self._news.set()
        if isinstance(error, VersionNotFound):
            self._look(force=True)
        elif is_transient and record.attempts == 1:
            self._report("WARNING", f"version {version} will be tried again: {reason}")

    def _fail_transiently(self, version: int, reason: str) -> VersionRecord:
        attempts = self._versions.attempts(version) + 1
        retry_at_s = time.monotonic() + self._retry.delay_s(attempts)
        return self._versions.fail(version, reason, retry_at_s=retry_at_s)

    def _spare_or_standby(self, kind: EngineKind, program_digest: str) -> Engine | None:
        return self._manager.take_spare(kind, program_digest, withdraw_ready=True)

    def _spare(self, kind: EngineKind, program_digest: str) -> Engine | None:
        return self._manager.take_spare(kind, program_digest, withdraw_ready=False)

    def _remark_on_age(self) -> None:
        """A pinned version is meant to be old."""
        newest = self._manager.newest
        if not isinstance(self._follow, Pinned):
            manifest = None if newest is None else newest.manifest
            for remark in self._freshness.remarks(manifest, self.watcher.known, time.monotonic(), time.time()):
                self._report(*remark)

    def _report(self, level: str, message: str) -> None:
        self._reports.append(LoaderReport(level, message))
