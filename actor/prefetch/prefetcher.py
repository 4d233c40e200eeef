"""A prefetcher: a process beside an actor that verifies what is new, so that adopting it costs no more than a copy.

The loader's thread does all that a prefetcher does, and more; but it shares Python's lock with the thread that
acts, and
each of its moves costs a little acting. A prefetcher costs an interpreter of its own, once. So one is started when
loads
have taken as long as that, for versions of the program that acts; it ends when nothing has come for a minute. What it
cannot see to is the loader's as before, and where it dies, falls silent or comes late, everything is.
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
from actor.versions.version_life import VersionState, VersionTable
from actor.watching.wake_up import WakeUp
from shared.engines.engine import Engine
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from shared.engines.llvm import LlvmEngine

WORTH_S = 0.5
"""What a prefetcher takes of a core until it is ready: an interpreter, imports, and to compile the program."""
LATE_S = 1.0
IDLE_S = 60.0
_MOST_FLOATS = 2**19  # to copy and to sum up 2 MB takes the acting thread as long as a prefetcher saves it


class Prefetcher:
    """Belongs to the loader's thread, but for ``has_news`` and ``take``, which are the acting thread's."""

    def __init__(
        self,
        store: LocalPolicyStore,
        manager: PolicyManager,
        versions: VersionTable,
        authenticity: Authenticity,
        *,
        batch_size: int,
        values: bool,
        remember_in: Path | None,
    ) -> None:
        """``remember_in``: where quarantines are remembered. The rest is as for the loader and its engines."""
        self._store = store
        self._manager = manager
        self._versions = versions
        self._authenticity = authenticity
        self._batch_size = batch_size
        self._values = values
        self._remember_in = remember_in
        self.last_end = ""
        """Why the last one ended."""
        self._spent_s = 0.0
        self._run: _Run | None = None
        self._awaited: tuple[int, float] | None = None
        self._declined = -1
        self._spare: LlvmEngine | None = None

    # What the loader's thread calls.

    def loaded(self, load_s: float) -> bool:
        """A version took ``load_s`` to load here, while this process might have acted. Whether ``keep`` has to know."""
        self._spent_s += min(load_s, PATIENCE_S)
        return self._run is None and self._spent_s >= WORTH_S

    def keep(self, wake: WakeUp, news: WakeUp) -> bool:
        """Start a prefetcher where it has become worth it, end one that is of no use any more. Whether one is at work.

        It sets ``wake`` when it is ready or leaves something to the loader, ``news`` when it offers something.
        """
        policy = self._manager.standing
        run = self._run
        if run is not None and run.is_gone:
            self._end(f"it has ended: {run.describe_end()}")
        elif run is not None and (policy is None or not run.is_for(policy.engine)):
            self._end("what it verifies acts no more")
        elif run is not None and run.idle_s() >= IDLE_S:
            self._end(f"nothing new has come for {IDLE_S:g} s")
        if self._run is None and policy is not None and self._spent_s >= WORTH_S:
            self._start(policy, wake, news)
        return self.is_at_work

    def leaves(self, version: int) -> bool:
        """Whether the loader has to see to ``version``: there is no prefetcher, or it refused it, or it is late."""
        run = self._run
        if run is None or not run.shared_weights.is_ready or version <= max(run.shared_weights.refused, self._declined):
            return True
        now_s = time.monotonic()
        if version <= run.shared_weights.offered:
            self._awaited = None
        elif self._awaited is None or self._awaited[0] <= run.shared_weights.offered:
            self._awaited = version, now_s
        elif now_s - self._awaited[1] >= LATE_S:
            self._end(f"it is late with version {self._awaited[0]}")
            return True
        return False

    @property
    def is_at_work(self) -> bool:
        """Whether it sees to what is new. Any thread may ask."""
        run = self._run
        return run is not None and run.shared_weights.is_ready

    def announced_versions(self) -> list[int]:
        """The versions that it has notified of, which the loader need not look for in the store."""
        return [] if self._run is None else [self._run.shared_weights.offered, self._run.shared_weights.refused]

    def close(self) -> None:
        """End it. Idempotent."""
        self._end("the agent is closed")

    def _end(self, why: str) -> None:
        """Another one has to become worth it again."""
        run, self._run, self._awaited, self._spent_s = self._run, None, None, 0.0
        if run is not None:
            self.last_end = why
            run.end()

    def _start(self, policy: LoadedPolicy, wake: WakeUp, news: WakeUp) -> None:
        engine = policy.engine
        if engine.kind != "llvm":
            return
        from shared.engines.llvm import LlvmEngine

        assert isinstance(engine, LlvmEngine)
        if engine.block.size > _MOST_FLOATS:
            return
        try:
            descriptor = make_shared_file(size_bytes(engine.block.size))
            try:
                config = self._config(policy, engine, descriptor, wake, news)
                self._run = _Run(engine, config)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._end(f"none could be started: {error}")

    def _config(
        self, policy: LoadedPolicy, engine: "LlvmEngine", shared_weights: int, wake: WakeUp, news: WakeUp
    ) -> PrefetchConfig:
        return PrefetchConfig(
            store=str(self._store),
            version=policy.version,
            signature=policy.signature,
            program_digest=engine.program_digest,
            code_digest=engine.code_digest,
            block_floats=engine.block.size,
            batch_size=self._batch_size,
            values=self._values,
            public_keys=tuple(key.raw for key in self._authenticity.keys),
            run_id=self._authenticity.run_id,
            remember_in=None if self._remember_in is None else str(self._remember_in),
            shared_weights=shared_weights,
            wake=wake.descriptor,
            news=news.descriptor,
        )

    # What the acting thread calls.

    @property
    def has_news(self) -> bool:
        """Whether it has offered something that was not taken yet; costs next to nothing."""
        run = self._run
        return run is not None and run.shared_weights.has_news

    def take(self) -> bool:
        """Make what it offers READY. Whether the loader has to see to that instead; mostly not.

        Never while the loader loads: both move versions.
        """
        run = self._run
        if run is None or (engine := self._spare_for(run)) is None:
            return False
        offer = run.shared_weights.take(engine.block)
        held, highest = self._manager.held_version, self._manager.highest_acted
        if offer is None or offer.version <= max(-1 if each is None else each for each in (held, highest)):
            return False
        if self._versions.quarantine_reason(offer.digest) is not None:  # this actor knows better
            self._declined = offer.version
            return True
        self._spare = None
        self._versions.move(offer.version, VersionState.LOADING)
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
    """One prefetcher from its start to its end."""

    def __init__(self, engine: "LlvmEngine", config: PrefetchConfig) -> None:
        """Raises OSError."""
        self.program_digest = engine.program_digest
        self.signature = config.signature
        """Of every version that it offers: another is not for it."""
        self._code_digest = engine.code_digest
        self.shared_weights = SharedWeights(config.shared_weights, config.block_floats)
        arguments = [msgspec.json.encode(config).decode()]
        self._process = SideProcess(
            "actor.prefetch.prefetch_process", arguments, [config.shared_weights, config.wake, config.news]
        )
        self._notified = (-1, -1)
        self._notified_at_s = time.monotonic()

    def is_for(self, engine: Engine | None) -> "TypeIs[LlvmEngine]":
        """Whether the prefetcher's blocks fit ``engine``."""
        return engine is not None and getattr(engine, "code_digest", None) == self._code_digest

    def idle_s(self) -> float:
        """How long it has notified of nothing, as far as calls of this can tell."""
        now_s, notified = time.monotonic(), (self.shared_weights.offered, self.shared_weights.refused)
        if notified != self._notified:
            self._notified, self._notified_at_s = notified, now_s
        return now_s - self._notified_at_s

    @property
    def is_gone(self) -> bool:
        return self._process.is_gone

    def describe_end(self) -> str:
        return self._process.describe_end()[0]

    def end(self) -> None:
        self._process.end()
