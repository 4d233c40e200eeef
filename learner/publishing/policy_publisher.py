"""Publishes weights as versions of a store, on a thread: training gives it a snapshot and goes on."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from loguru import logger
from torch import Tensor, nn

from learner.export.policy_export import PolicyExporter
from learner.publishing.error_throttle import ErrorThrottle
from learner.publishing.store_maintenance import StoreMaintenance
from learner.training.training_statistics import PublishedVersions
from shared.engines.eager import module_tensors
from shared.errors import StoreError
from shared.policy.manifest import WEIGHTS_FILE, FileEntry, Manifest, ProbeEntry, ProgramEntry, TrainingProgress
from shared.policy.signing import SigningKey
from shared.retry import RetrySchedule
from shared.store.policy_store import PolicyStore, Retention

_KEEPER_PATIENCE_S = 2.0
_DIGESTS_KEPT = 100


@dataclass(frozen=True)
class _Request:
    weights: Mapping[str, Tensor]
    progress: TrainingProgress


class PolicyPublisher:
    """The newest request wins: one that has not been begun when the next arrives is dropped.

    Nothing that goes wrong here is raised into the training: it is logged and kept in ``last_error``. What a store did
    not take is tried again, less and less often, until something newer takes its place: actors without a policy send
    nothing, so that without that there might never be another update. ``latest_version`` is the newest version that
    this publisher committed; ``published`` counts those of the whole run.
    """

    def __init__(
        self,
        exporter: PolicyExporter,
        store: PolicyStore,
        *,
        run_id: str,
        env_id: str | None,
        retention: Retention,
        synchronous: bool,
        signing_key: SigningKey | None = None,
    ) -> None:
        """``synchronous`` publishes on the caller's thread, before ``publish`` returns, and tries nothing again."""
        self.latest_version: int | None = None
        self.published = PublishedVersions()  # replaced and not changed: other threads read it
        self.last_error: Exception | None = None
        self._digests: dict[int, str] = {}
        self._exporter = exporter
        self._store = store
        self._run_id = run_id
        self._env_id = env_id
        self._sign = None if signing_key is None else signing_key.sign
        self._keeper = StoreMaintenance(store, retention)
        self._changed = threading.Condition()
        self._waiting: _Request | None = None
        self._refused: _Request | None = None  # by the store, and worth another try
        self._attempts = 0
        self._retry = RetrySchedule()
        self._outage = ErrorThrottle("publishing")
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        if not synchronous:
            # A daemon, so that a store that hangs cannot keep a learner from ending.
            self._thread = threading.Thread(target=self._serve, name="policy-publisher", daemon=True)
            self._thread.start()

    def disowns(self, version: int, digest: str) -> str | None:
        """Why nobody can have acted with that version of that digest, or None where that cannot be told."""
        known = self._digests.get(version)
        if known is not None:
            return None if known == digest else f"version {version} has digest {known}, found {digest}"
        if self.latest_version is not None and version <= self.latest_version:
            return None  # from before this process, or too old to be remembered
        try:
            newest = self._store.newest()  # committed, and not counted here yet; or by the learner before
        except StoreError as error:
            logger.warning("cannot tell whether version {} exists: {}", version, error)
            return None
        return None if newest is None or version <= newest else f"version {version} was never published"

    def resume(self, published: PublishedVersions) -> None:
        """Count on from what a checkpoint tells, and from what is in the store that came after it."""
        self.published = published
        try:
            self.published = published.and_those_since(self._store.versions())
        except StoreError as error:
            logger.warning("cannot tell what was published after the checkpoint: {}", error)

    def publish(self, module: nn.Module, progress: TrainingProgress) -> None:
        """Publish the weights as they are now: they are copied before this returns. Does nothing once closed."""
        if self._is_closed:
            logger.warning("the publisher is closed: update {} is not published", progress.update)
            return
        request = _Request({name: tensor.clone() for name, tensor in module_tensors(module).items()}, progress)
        if self._thread is None:
            self._publish(request)
            return
        with self._changed:
            self._waiting = request
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is under way; what waits to be tried again is not. False where ``timeout_s`` passed."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def _is_idle(self) -> bool:
        return self._waiting is None and not self._is_busy

    def close(self, timeout_s: float = 10.0) -> None:
        """Publish what is under way, make it durable, sweep once more, and end the threads. May be called twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.warning("a publication is still under way after {} s: leaving it", timeout_s)
                return
        if not self._keeper.close(_KEEPER_PATIENCE_S):
            logger.warning("the store is still being swept after {} s: leaving it", _KEEPER_PATIENCE_S)

    def _serve(self) -> None:
        while (request := self._next_request()) is not None:
            self._publish(request)

    def _next_request(self) -> _Request | None:
        """The newest request, once there is one or the time has come to try again; None once closed and done."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()
            delay_s = None if self._refused is None else self._retry.delay_s(self._attempts)
            self._changed.wait_for(lambda: self._waiting is not None or self._is_closed, delay_s)
            request = self._waiting or self._refused
            self._waiting = self._refused = None
            self._is_busy = request is not None
            return request

    def _publish(self, request: _Request) -> None:
        try:
            files, programs, probe = self._exporter.files(request.weights)
            manifest = self._store.publish(
                files,
                lambda version, entries: self._describe(version, entries, programs, probe, request.progress),
                durable=False,  # the keeper sees to that: an actor need not wait for the disk
                sign=self._sign,
            )
        except Exception as error:  # noqa: BLE001 - training goes on whatever a store or a policy raises
            self.last_error = error
            self._attempts += 1
            if isinstance(error, StoreError) and not self._is_closed:
                self._refused = request
            self._outage.failed(error, f"update {request.progress.update} is not published, and training goes on")
            return
        self._attempts = 0
        self.last_error = None
        self._remember(manifest)
        self.latest_version = manifest.version
        self.published = self.published.and_one_more(manifest.version)
        logger.debug("published version {} of update {}", manifest.version, request.progress.update)
        self._outage.worked()
        self._keeper.published(manifest)

    def _remember(self, manifest: Manifest) -> None:
        # Replaced and not changed, as another thread looks things up in it.
        newest = dict(list(self._digests.items())[1 - _DIGESTS_KEPT :])
        self._digests = newest | {manifest.version: manifest.digest}

    def _describe(
        self,
        version: int,
        entries: dict[str, FileEntry],
        programs: tuple[ProgramEntry, ...],
        probe: ProbeEntry,
        progress: TrainingProgress,
    ) -> Manifest:
        return Manifest(
            version=version,
            run_id=self._run_id,
            env_id=self._env_id,
            created_unix_s=time.time(),
            signature=self._exporter.signature,
            programs=programs,
            files=entries,
            weights=WEIGHTS_FILE,
            probe=probe,
            export=self._exporter.reports,
            training=progress,
        )
