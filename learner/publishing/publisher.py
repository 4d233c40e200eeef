"""``Publisher``: publishes a module as versions of a store while the user's own loop trains it."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from gymnasium import spaces
from loguru import logger
from torch import nn

from learner.export.given_module import module_of
from learner.export.policy_export import PolicyExporter
from learner.export.spaces_policy import contract_policy
from learner.publishing.policy_publisher import PolicyPublisher, check_keywords
from learner.publishing.program_fingerprint import ProgramFingerprint
from shared.errors import ConfigurationError, StoreUnavailable, one_line
from shared.policy.manifest import ProgramKind, TrainingProgress
from shared.policy.signature import PolicySignature
from shared.policy.signing import SigningKey, signing_key_of
from shared.store.policy_store import PolicyStore, Retention, open_store


class PublisherOptions(TypedDict, total=False):
    """Keywords of ``Publisher`` that say how versions are published.

    ``run_id`` and ``env_id`` are written into the manifests. ``onnx=False`` exports TorchScript only, in less time;
    ``programs`` names the programs (see ``PublishOptions``).
    ``retention`` says which old versions are kept. ``synchronous`` commits a version before ``publish`` returns.
    ``signing_key``, or the path of its file, signs the versions for agents that have its public key.
    """

    run_id: str
    env_id: str | None
    onnx: bool
    programs: Collection[ProgramKind]
    retention: Retention
    synchronous: bool
    signing_key: SigningKey | str | Path | None


class PublishMetrics(TypedDict, total=False):
    """Progress of the training, which ``publish`` writes into the manifest.

    ``update`` counts the updates (default: the earlier calls of ``publish``), ``train_s`` the seconds of training
    (default: since the construction of the publisher), ``mean_return`` is the mean return of recent episodes.
    """

    update: int
    train_s: float
    mean_return: float | None


class Publisher:
    """Publishes snapshots of one module on a thread while training continues.

        with Publisher("policies", policy, env.observation_space, env.action_space) as publisher:
            for step in range(1_000_000):
                ...
                publisher.publish(step=step)

    The programs are made and compared with the module once, at construction, which takes seconds. A version is then
    new weights in the same programs. If the program has changed since (other layers, parameters or code), ``publish``
    exports it again first. If versions are requested faster than the store commits them, the newest request replaces
    the one that waits.

    Errors of the thread are logged, and raised by the next call of ``publish``, ``wait`` or ``close``.
    """

    def __init__(
        self,
        store: PolicyStore | str | Path,
        module: nn.Module,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        *,
        state: Any = None,
        masked: bool = False,
        outputs: Sequence[str] | None = None,
        **options: Unpack[PublisherOptions],
    ) -> None:
        """Export ``module``.

        Args:
            store: The policy store, its directory or its URL.
            module: The policy, which the caller goes on training. See ``publish_policy`` for its arguments and results.
            observation_space: The observation space of one environment. A module with a ``signature`` needs no spaces.
            action_space: The action space of one environment.
            state: An example of the recurrent state: float32 tensors ``[1, ...]`` nested in any way.
            masked: True when the module takes an action mask as its last argument.
            outputs: The names of the items that the module returns as a tuple or list.
            **options: See ``PublisherOptions``.

        Raises:
            ConfigurationError: The spaces are not those of the policy's signature, or an option is wrong.
            ExportError: No program equals the module; the message names each method's reason.
        """
        check_keywords(options, PublisherOptions)
        self._module = module_of(module)
        self._spaces = (observation_space, action_space)
        self._state, self._masked, self._outputs = state, masked, outputs
        self._onnx = options.get("onnx", True)
        self._programs = options.get("programs", ())
        self._requests = 0
        self._is_closed = False
        signing_key = signing_key_of(options.get("signing_key"))
        self._program = ProgramFingerprint(self._module)
        self._policy, exporter = self._export()
        self._publisher = PolicyPublisher(
            exporter,
            open_store(store) if isinstance(store, str | Path) else store,
            run_id=options.get("run_id", "publisher"),
            env_id=options.get("env_id"),
            retention=options.get("retention") or Retention(),
            synchronous=options.get("synchronous", False),
            signing_key=signing_key,
        )
        self._began_s = time.monotonic()

    @property
    def latest_version(self) -> int | None:
        """The newest version that this publisher committed."""
        return self._publisher.latest_version

    def publish(self, step: int = 0, metrics: PublishMetrics | None = None) -> None:
        """Request a version with a copy of the module's present weights, and return.

        Args:
            step: The number of environment steps so far.
            metrics: See ``PublishMetrics``.

        Raises:
            ConfigurationError: The publisher is closed, or a number is wrong.
            ExportError: The program has changed, and no program equals it, or an earlier version was refused.
            WeightsError: Weights of an earlier call are not finite.
            StoreError: The store failed. That version is tried again until a newer one replaces it.
        """
        if self._is_closed:
            raise ConfigurationError("make a new Publisher: this one is closed")
        progress = self._progress(step, metrics or {})
        if changes := self._program.changes():
            logger.info("program changed, exporting again changes={!r}", one_line(", ".join(changes), 200))
            self._policy, exporter = self._export()
            self._program.accept()
            self._publisher.replace_exporter(exporter)
        self._requests += 1
        self._publisher.publish(self._policy, progress)  # also when an earlier one failed
        self._raise_error()

    def wait(self, timeout_s: float = 60.0) -> int | None:
        """Wait until the requested versions are committed, and return the newest one's number.

        Raises:
            StoreUnavailable: They are not committed after ``timeout_s`` seconds.
            HotswapError: The error of the thread, as for ``publish``.
        """
        is_done = self._publisher.flush(timeout_s)
        self._raise_error()
        if not is_done:
            raise StoreUnavailable(f"check the store: a version is still being written after {timeout_s:g} s")
        return self.latest_version

    def close(self, timeout_s: float = 10.0) -> None:
        """Commit the requested version, and end the threads. May be called twice. Raises as ``wait`` does."""
        self._is_closed = True
        self._publisher.close(timeout_s)
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise
            # The caller's own exception is the one to see; this one is in the log.

    def _export(self) -> tuple[nn.Module, PolicyExporter]:
        policy, signature = self._contract_policy()
        return policy, PolicyExporter(policy, signature, onnx=self._onnx, programs=self._programs)

    def _contract_policy(self) -> tuple[nn.Module, PolicySignature]:
        return contract_policy(
            self._module, self._spaces, state=self._state, masked=self._masked, outputs=self._outputs
        )

    def _progress(self, step: int, metrics: PublishMetrics) -> TrainingProgress:
        if unknown := metrics.keys() - PublishMetrics.__annotations__.keys():
            raise ConfigurationError(
                f"leave {one_line(', '.join(sorted(unknown)), 100)} out of metrics: a version records "
                f"{', '.join(PublishMetrics.__annotations__)}"
            )
        update = int(metrics.get("update", self._requests))
        if step < 0 or update < 0:
            raise ConfigurationError(f"count step and update from 0, found {step} and {update}")
        mean_return = metrics.get("mean_return")
        return TrainingProgress(
            update=update,
            env_steps=int(step),
            train_s=float(metrics.get("train_s", time.monotonic() - self._began_s)),
            mean_return=None if mean_return is None else float(mean_return),
        )

    def _raise_error(self) -> None:
        if (error := self._publisher.take_error()) is not None:
            raise error
