"""The actor's side of the prefetcher: a process that verifies new versions, so that adopting one costs only a copy.

The loader thread does the same work, but it shares the GIL with the acting thread. A prefetcher costs an interpreter of
its own, once: it is started when loads have taken as long as that, for versions of the acting program, and it ends when
nothing new has come for a minute. The loader loads what the prefetcher refuses, and everything when the prefetcher has
ended or is late.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from actor.loading.loaded_policy import LoadedPolicy
from actor.prefetch.prefetch_config import PrefetchConfig
from actor.prefetch.shared_weights import SharedWeights, make_shared_file, size_bytes
from actor.sandbox.side_process import SideProcess
from actor.versions.load_barrier import PATIENCE_S
from actor.versions.policy_manager import PolicyManager
from actor.versions.reports import Reports
from actor.versions.version_life import VersionState
from actor.versions.version_source import VersionSource
from actor.watching.wake_up import WakeUp
from shared.engines.engine import Engine
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from shared.engines.llvm import LlvmEngine

WORTH_S = 0.5
"""The CPU time that a prefetcher needs until it is ready: an interpreter, imports, and compiling the program."""
LATE_S = 1.0
IDLE_S = 60.0
_MAX_FLOATS = 2**19  # copying 2 MB and computing their checksum takes the acting thread as long as a prefetcher saves


class Prefetcher(VersionSource):
    """Starts and ends the process, and takes its versions.

    ``quarantine_directory`` is that of the ``QuarantineCache``. The rest is as for the loader and its engines.
    """

    def __init__(
        self,
        store: LocalPolicyStore,
        manager: PolicyManager,
        authenticity: Authenticity,
        reports: Reports,
        *,
        batch_size: int,
        values: bool,
        quarantine_directory: Path | None,
    ) -> None:
        self._store = store
        self._manager = manager
        self._authenticity = authenticity
        self._reports = reports
        self._batch_size = batch_size
        self._values = values
        self._quarantine_directory = quarantine_directory
        self._spent_s = 0.0
        self._run: _Run | None = None
        self._was_active = False
        self._awaited: tuple[int, float] | None = None
        self._declined = -1
        self._spare: LlvmEngine | None = None

    # Called by the loader.

    def loaded(self, load_s: float) -> bool:
        """Count the time that a load took from acting. Return True once a prefetcher pays off."""
        self._spent_s += min(load_s, PATIENCE_S)
        return self._run is None and self._spent_s >= WORTH_S

    def keep(self, wake: WakeUp, news: WakeUp) -> bool:
        """Start the process once it pays off, end it once it is of no use, and return ``is_active``."""
        policy = self._manager.held
        run = self._run
        if run is not None and run.is_gone:
            self._stop(f"process ended with {run.describe_end()}")
        elif run is not None and (policy is None or not run.is_for(policy.engine)):
            self._stop("another program acts")
        elif run is not None and run.idle_s() >= IDLE_S:
            self._stop(f"no new version for {IDLE_S:g} s")
        if self._run is None and policy is not None and self._spent_s >= WORTH_S:
            self._start(policy, wake, news)
        if self.is_active and not self._was_active:
            self._was_active = True
            self._reports.add("INFO", "prefetcher started")
        return self.is_active

    def leaves_to_loader(self, version: int) -> bool:
        """Return True if there is no prefetcher, or it refused ``version``, or it is late."""
        run = self._run
        if run is None or not run.shared_weights.is_ready or version <= max(run.shared_weights.refused, self._declined):
            return True
        now_s = time.monotonic()
        if version <= run.shared_weights.offered:
            self._awaited = None
        elif self._awaited is None or self._awaited[0] <= run.shared_weights.offered:
            self._awaited = version, now_s
        elif now_s - self._awaited[1] >= LATE_S:
            self._stop(f"late with version {self._awaited[0]}")
            return True
        return False

    @property
    def is_active(self) -> bool:
        """True while the process verifies new versions. Any thread may ask."""
        run = self._run
        return run is not None and run.shared_weights.is_ready

    def announced(self) -> list[int]:
        """Return the newest versions that it offered and refused."""
        return [] if self._run is None else [self._run.shared_weights.offered, self._run.shared_weights.refused]

    def close(self) -> None:
        """End the process. Idempotent."""
        self._stop("agent closed")

    def _stop(self, reason: str) -> None:
        run, self._run, self._awaited, self._spent_s = self._run, None, None, 0.0
        if run is not None:
            run.end()
            self._was_active = False
            self._reports.add("INFO", f"prefetcher stopped reason={reason}")

    def _start(self, policy: LoadedPolicy, wake: WakeUp, news: WakeUp) -> None:
        engine = policy.engine
        if engine.kind != "llvm":
            return
        from shared.engines.llvm import LlvmEngine

        assert isinstance(engine, LlvmEngine)
        if engine.block.size > _MAX_FLOATS:
            return
        try:
            descriptor = make_shared_file(size_bytes(engine.block.size))
            try:
                config = self._config(policy, engine, descriptor, wake, news)
                self._run = _Run(engine, config)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._spent_s = 0.0
            self._reports.add("WARNING", f"prefetcher not started error={error}")

    def _config(
        self, policy: LoadedPolicy, engine: "LlvmEngine", shared_weights: int, wake: WakeUp, news: WakeUp
    ) -> PrefetchConfig:
        directory = self._quarantine_directory
        return PrefetchConfig(
            store=os.fsencode(self._store.path),
            version=policy.version,
            signature=policy.signature,
            program_digest=engine.program_digest,
            code_digest=engine.code_digest,
            block_floats=engine.block.size,
            batch_size=self._batch_size,
            values=self._values,
            public_keys=tuple(key.raw for key in self._authenticity.keys),
            run_id=self._authenticity.run_id,
            quarantine_directory=None if directory is None else os.fsencode(directory),
            shared_weights=shared_weights,
            wake=wake.descriptor,
            news=news.descriptor,
        )

    # Called on the acting thread.

    @property
    def has_news(self) -> bool:
        """True while it offers a version that was not taken yet. Costs next to nothing."""
        run = self._run
        return run is not None and run.shared_weights.has_news

    def take(self) -> bool:
        """Make the offered version the standby. Return True if the loader has to load it instead.

        Never called while the loader loads: both move versions.
        """
        run = self._run
        if run is None or (engine := self._spare_for(run)) is None:
            return False
        offer = run.shared_weights.take(engine.block)
        held, highest = self._manager.held_version, self._manager.highest_acted
        if offer is None or offer.version <= max(-1 if each is None else each for each in (held, highest)):
            return False
        if self._manager.versions.quarantine_reason(offer.digest) is not None:  # the process does not know it
            self._declined = offer.version
            return True
        self._spare = None
        self._manager.versions.move(offer.version, VersionState.LOADING)
        self._manager.offer(
            LoadedPolicy(offer.version, offer.digest, run.signature, engine, engine.kind, offer.manifest_bytes)
        )
        return False

    def _spare_for(self, run: "_Run") -> "LlvmEngine | None":
        if self._spare is None or not run.is_for(self._spare):
            engine = self._manager.take_spare("llvm", run.program_digest, withdraw_ready=True)
            self._spare = engine if run.is_for(engine) else None
        return self._spare


class _Run:
    """One process from its start to its end."""

    def __init__(self, engine: "LlvmEngine", config: PrefetchConfig) -> None:
        self.program_digest = engine.program_digest
        self.signature = config.signature
        """The signature of every version that it offers: it refuses others."""
        self._code_digest = engine.code_digest
        self.shared_weights = SharedWeights(config.shared_weights, config.block_floats)
        arguments = [msgspec.json.encode(config).decode()]
        self._process = SideProcess(
            "actor.prefetch.prefetch_process", arguments, [config.shared_weights, config.wake, config.news]
        )
        self._announced = (-1, -1)
        self._announced_at_s = time.monotonic()

    def is_for(self, engine: Engine | None) -> "TypeIs[LlvmEngine]":
        """Return True if the weights of the process fit ``engine``."""
        return engine is not None and getattr(engine, "code_digest", None) == self._code_digest

    def idle_s(self) -> float:
        """Return how long it has offered and refused nothing, as far as the calls of this method can tell."""
        now_s, announced = time.monotonic(), (self.shared_weights.offered, self.shared_weights.refused)
        if announced != self._announced:
            self._announced, self._announced_at_s = announced, now_s
        return now_s - self._announced_at_s

    @property
    def is_gone(self) -> bool:
        return self._process.is_gone

    def describe_end(self) -> str:
        return self._process.describe_end()[0]

    def end(self) -> None:
        self._process.end()
