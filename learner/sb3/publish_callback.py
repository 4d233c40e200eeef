"""``PublishCallback``: publishes the policy while Stable-Baselines3 trains."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from loguru import logger
from stable_baselines3.common.callbacks import BaseCallback

from learner.publishing.policy_publisher import VersionOrigin, check_keywords
from learner.publishing.publisher import Publisher
from learner.sb3.adapter import SB3Policy, from_sb3, refresh
from shared.errors import ConfigurationError, HotswapError
from shared.policy.manifest import ProgramKind
from shared.policy.signing import SigningKey, signing_key_of
from shared.store.policy_store import PolicyStore, Retention


class VersionOptions(TypedDict, total=False):
    """Keywords of ``PublishCallback`` for its versions.

    ``run_id`` and ``env_id`` are written into the manifests. ``programs`` names the programs (see ``PublishOptions``).
    """

    run_id: str
    env_id: str | None
    programs: Collection[ProgramKind]


class PublishCallback(BaseCallback):
    """Publishes the policy when training begins, then every ``every_steps`` environment steps, and when it ends.

        model.learn(1_000_000, callback=PublishCallback(LocalPolicyStore("policies"), every_steps=10_000))

    The programs are made once, when training begins, which takes seconds; a version is then only weights. Errors of
    publishing are logged, and training continues.
    """

    def __init__(
        self,
        store: PolicyStore,
        every_steps: int,
        *,
        retention: Retention | None = None,
        onnx: bool = True,
        synchronous: bool = False,
        signing_key: SigningKey | str | Path | None = None,
        **options: Unpack[VersionOptions],
    ) -> None:
        """``synchronous`` publishes before training continues. Raises ConfigurationError for a wrong option or key."""
        super().__init__()
        if every_steps <= 0:
            raise ConfigurationError(f"give every_steps a number of environment steps above 0, found {every_steps}")
        self.publisher: Publisher | None = None
        self._store = store
        self._every_steps = every_steps
        check_keywords(options, VersionOptions)
        self._programs = options.get("programs", ())
        self._origin = VersionOrigin(options.get("run_id", "stable-baselines3"), options.get("env_id"))
        self._retention = retention or Retention()
        self._onnx = onnx
        self._synchronous = synchronous
        self._signing_key = signing_key_of(signing_key)
        self._policy: SB3Policy | None = None
        self._began_s = 0.0
        self._next_at = 0

    def _on_training_start(self) -> None:
        self._policy = from_sb3(self.model)
        self.publisher = Publisher(
            self._store,
            self._policy,
            run_id=self._origin.run_id,
            env_id=self._origin.env_id,
            onnx=self._onnx,
            programs=self._programs,
            retention=self._retention,
            synchronous=self._synchronous,
            signing_key=self._signing_key,
        )
        self._began_s = time.monotonic()
        self._next_at = self.num_timesteps + self._every_steps
        self._publish()

    def _on_step(self) -> bool:
        # Several environments make several steps at once, so the count may skip the exact number.
        if self.num_timesteps >= self._next_at:
            self._next_at = self.num_timesteps + self._every_steps
            self._publish()
        return True

    def _on_training_end(self) -> None:
        self._publish()
        if self.publisher is not None:
            with _training_continues():
                self.publisher.wait(timeout_s=60.0)
            with _training_continues():
                self.publisher.close()

    def _publish(self) -> None:
        if self._policy is None or self.publisher is None:
            return
        refresh(self._policy, self.model)
        with _training_continues():
            self.publisher.publish(
                self.model.num_timesteps,
                {
                    "update": getattr(self.model, "_n_updates", 0),
                    "train_s": time.monotonic() - self._began_s,
                    "mean_return": self._mean_return(),
                },
            )

    def _mean_return(self) -> float | None:
        episodes = self.model.ep_info_buffer
        return float(np.mean([episode["r"] for episode in episodes])) if episodes else None


@contextmanager
def _training_continues() -> Iterator[None]:
    """Log the errors of publishing: training does not depend on it."""
    try:
        yield
    except HotswapError as error:
        logger.warning("publishing failed, training continues: {}: {}", type(error).__name__, error)
