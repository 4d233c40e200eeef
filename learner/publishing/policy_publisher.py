"""Publication of policies as versions of a store: of one, or on a thread, while training continues."""

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec
from gymnasium import spaces
from loguru import logger
from torch import Tensor, nn

from learner.export.policy_export import PolicyExporter
from learner.export.spaces_policy import contract_policy
from learner.publishing.error_throttle import ErrorThrottle
from learner.publishing.store_maintenance import StoreMaintenance
from shared.engines.eager import module_tensors
from shared.errors import ConfigurationError, StoreError, one_line
from shared.policy.manifest import WEIGHTS_FILE, Manifest, ProgramKind, TrainingProgress
from shared.policy.signature import PolicySignature
from shared.policy.signing import SigningKey, signing_key_of
from shared.retry import RetrySchedule
from shared.store.policy_store import PolicyStore, Retention, open_store
from shared.store.version_files import Sign


class PublishOptions(TypedDict, total=False):
    """Keywords of ``publish_policy`` and ``publish_once`` that say how a version is published.

    ``env_id`` is written into the manifest. ``programs`` names the programs of the version: ``torchscript``, ``onnx``,
    ``executorch`` (extra ``executorch``), ``aot`` (native code, compiled in 15 to 40 s). Without ``torchscript`` or
    ``onnx`` among them, both are made as well; ``("onnx",)`` makes nothing of TorchScript. ``onnx=False`` and
    ``aot=True`` are short forms of ``("torchscript",)`` and ``("aot",)``. ``signing_key``, or the path of its file,
    signs the version for agents that have its public key.
    """

    env_id: str | None
    programs: Collection[ProgramKind]
    onnx: bool
    aot: bool
    signing_key: SigningKey | str | Path | None


@dataclass(frozen=True)
class VersionOrigin:
    """The run that publishes a version, and the environment that the policy acts in."""

    run_id: str = "export"
    env_id: str | None = None


def publish_policy(
    module: nn.Module,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    store: PolicyStore | str | Path,
    *,
    state: Any = None,
    masked: bool = False,
    outputs: Sequence[str] | None = None,
    **options: Unpack[PublishOptions],
) -> Manifest:
    """Publish ``module`` as the newest policy of ``store``, and return the manifest of that version.

    A module with a ``signature`` follows the policy contract and is published as it is. Any other is wrapped in a
    ``SpacesPolicy``, which defines its arguments and results.

    Args:
        module: The policy. It is copied, not changed.
        store: The policy store, its directory or its URL.
        state: An example of the recurrent state: float32 tensors ``[1, ...]`` nested in any way.
        masked: True when the module takes an action mask as its last argument.
        outputs: The names of the items that the module returns as a tuple or list.
        **options: See ``PublishOptions``.

    Raises:
        ConfigurationError: The spaces are not those of the policy's signature.
        ExportError: No program equals the module; the message names each method's reason.
        StoreError: The store failed.
    """
    module, signature = contract_policy(
        module, (observation_space, action_space), state=state, masked=masked, outputs=outputs
    )
    opened = open_store(store) if isinstance(store, str | Path) else store
    return publish_once(module, signature, opened, **options)


def publish_once(
    module: nn.Module,
    signature: PolicySignature,
    store: PolicyStore,
    **options: Unpack[PublishOptions],
) -> Manifest:
    """Export a module that follows the policy contract, and publish it. Raises ExportError and StoreError."""
    check_keywords(options, PublishOptions)
    key = signing_key_of(options.get("signing_key"))
    onnx, aot, programs = options.get("onnx", True), options.get("aot", False), options.get("programs", ())
    return publish_version(
        PolicyExporter(module, signature, onnx=onnx, aot=aot, programs=programs),
        module_tensors(module),
        store,
        VersionOrigin(env_id=options.get("env_id")),
        sign=None if key is None else key.sign,
    )


def check_keywords(options: Mapping[str, Any], known: type[Any]) -> None:
    """Raise ConfigurationError for a keyword that the TypedDict ``known`` does not have."""
    if unknown := options.keys() - known.__annotations__.keys():
        names = ", ".join(known.__annotations__)
        raise ConfigurationError(f"leave out {one_line(', '.join(sorted(unknown)), 80)}: expected {names}")


def publish_version(
    exporter: PolicyExporter,
    weights: Mapping[str, Tensor],
    store: PolicyStore,
    origin: VersionOrigin,
    *,
    training: TrainingProgress | None = None,
    durable: bool = True,
    sign: Sign | None = None,
) -> Manifest:
    """Publish ``weights`` with the programs of ``exporter``, and return the manifest."""
    files, programs, probe = exporter.files(weights)
    return store.publish(
        files,
        lambda version, entries: Manifest(
            version=version,
            run_id=origin.run_id,
            env_id=origin.env_id,
            created_unix_s=time.time(),
            signature=exporter.signature,
            programs=programs,
            files=entries,
            weights=WEIGHTS_FILE,
            probe=probe,
            export=exporter.reports,
            training=training or TrainingProgress(),
        ),
        durable=durable,
        sign=sign,
    )


class PublishedVersions(msgspec.Struct, frozen=True):
    """The number of versions that all learners of a run have published, and the newest of them."""

    count: int = 0
    newest: int | None = None

    def and_one_more(self, version: int) -> "PublishedVersions":
        return PublishedVersions(self.count + 1, version)

    def and_those_since(self, versions: Iterable[int]) -> "PublishedVersions":
        """Return the count with those of ``versions`` added that are newer than the newest counted."""
        since = [version for version in versions if self.newest is None or version > self.newest]
        return PublishedVersions(self.count + len(since), max(since, default=self.newest))


_MAINTENANCE_TIMEOUT_S = 2.0
_MOST_DIGESTS = 100


@dataclass(frozen=True)
class _Request:
    weights: Mapping[str, Tensor]
    progress: TrainingProgress
    exporter: PolicyExporter


class PolicyPublisher:
    """Publishes the newest requested weights; a request that is not begun when the next arrives is dropped.

    Errors are logged and kept in ``last_error``. A request that the store refused is tried again with growing delays,
    until a newer one replaces it: without a policy, actors send no rollouts, and there might be no other update.
    ``latest_version`` is the newest version that this publisher committed, ``published`` counts those of the whole run.
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
        """``synchronous`` publishes on the caller's thread, before ``publish`` returns, and never tries again."""
        self.latest_version: int | None = None
        self.published = PublishedVersions()  # replaced, not changed: other threads read it
        self.last_error: Exception | None = None
        self._digests: dict[int, str] = {}
        self._exporter = exporter
        self._store = store
        self._origin = VersionOrigin(run_id, env_id)
        self._sign = None if signing_key is None else signing_key.sign
        self._maintenance = StoreMaintenance(store, retention)
        self._changed = threading.Condition()
        self._unreported: tuple[_Request, Exception] | None = None
        self._waiting: _Request | None = None
        self._refused: _Request | None = None  # by the store, to be tried again
        self._attempts = 0
        self._retry = RetrySchedule()
        self._errors = ErrorThrottle("publishing")
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        if not synchronous:
            # A daemon, so that a hanging store cannot keep a learner from ending.
            self._thread = threading.Thread(target=self._serve, name="policy-publisher", daemon=True)
            self._thread.start()

    def published_digest(self, version: int) -> str | None:
        """Return the digest of a version that this publisher committed, None if it does not remember the version."""
        return self._digests.get(version)

    def newest_stored_version(self) -> int | None:
        """Return the newest version in the store, by any learner. Raises StoreError."""
        return self._store.newest()

    def resume(self, published: PublishedVersions) -> None:
        """Continue the count of a checkpoint, with the versions in the store that are newer."""
        self.published = published
        try:
            self.published = published.and_those_since(self._store.versions())
        except StoreError as error:
            logger.warning("cannot count the versions published after the checkpoint: {}", error)

    def replace_exporter(self, exporter: PolicyExporter) -> None:
        """Publish the requests from now on with the programs of ``exporter``."""
        self._exporter = exporter

    def take_error(self) -> Exception | None:
        """Return the newest error that this has not returned before, None if there is none or a retry succeeded."""
        if self._unreported is None:  # the usual case, without waiting for the thread's lock
            return None
        with self._changed:
            unreported, self._unreported = self._unreported, None
        return None if unreported is None else unreported[1]

    def publish(self, module: nn.Module, progress: TrainingProgress) -> None:
        """Request the publication of a copy of the current weights. Does nothing after ``close``."""
        if self._is_closed:
            logger.warning("the publisher is closed: update {} is not published", progress.update)
            return
        weights = {name: tensor.clone() for name, tensor in module_tensors(module).items()}
        request = _Request(weights, progress, self._exporter)
        if self._thread is None:
            self._publish(request)
            return
        with self._changed:
            self._waiting = request
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until no publication is in progress. Return False after ``timeout_s``. Retries are not awaited."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and not self._is_busy, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish the publication in progress, sync, sweep once more, and end the threads. May be called twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.warning("publication abandoned: still in progress timeout_s={}", timeout_s)
                return
        if not self._maintenance.close(_MAINTENANCE_TIMEOUT_S):
            logger.warning("store maintenance abandoned: still in progress timeout_s={}", _MAINTENANCE_TIMEOUT_S)

    def _serve(self) -> None:
        while (request := self._next_request()) is not None:
            self._publish(request)

    def _next_request(self) -> _Request | None:
        """Wait for a request or for the time of the next retry. Return None after ``close``, with all requests done."""
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
            manifest = publish_version(
                request.exporter,
                request.weights,
                self._store,
                self._origin,
                training=request.progress,
                durable=False,  # the maintenance thread syncs: an actor need not wait for the disk
                sign=self._sign,
            )
        except Exception as error:  # noqa: BLE001 - training continues whatever a store or a policy raises
            self.last_error = error
            with self._changed:
                self._unreported = (request, error)
            self._attempts += 1
            if isinstance(error, StoreError) and not self._is_closed:
                self._refused = request
            self._errors.failed(error, f"update {request.progress.update} is not published, and training continues")
            return
        self._attempts = 0
        self.last_error = None
        with self._changed:
            if self._unreported is not None and self._unreported[0] is request:
                self._unreported = None
        # Replaced, not changed: another thread reads it.
        newest = dict(list(self._digests.items())[1 - _MOST_DIGESTS :])
        self._digests = newest | {manifest.version: manifest.digest}
        self.latest_version = manifest.version
        self.published = self.published.and_one_more(manifest.version)
        logger.debug("policy version published version={} update={}", manifest.version, request.progress.update)
        self._errors.worked()
        self._maintenance.published(manifest)
