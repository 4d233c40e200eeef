"""The parts of an agent, put together from its options. Only this module imports the canary and the prefetcher."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actor.agent_options import AgentOptions
from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from actor.sandbox.program_sandbox import ProgramSandbox
from actor.sandbox.sandbox_cache import SandboxCache
from actor.versions.policy_loader import PolicyLoader
from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_cache import QuarantineCache
from actor.versions.staleness import StalenessMonitor
from actor.versions.version_life import VersionTable
from actor.versions.version_selection import Newest
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, PolicyStore

if TYPE_CHECKING:
    from actor.canary.canary_assignment import CanaryAssignment
    from actor.canary.canary_evaluation import CanaryEvaluation
    from actor.prefetch.prefetcher import Prefetcher


@dataclass(frozen=True)
class AgentParts:
    """The parts that an agent works with."""

    manager: PolicyManager
    loader: PolicyLoader
    assignment: "CanaryAssignment | None"


def build_parts(store: PolicyStore, options: AgentOptions) -> AgentParts:
    """Build the parts of an agent that acts from ``store``. Starts no thread and no process."""
    versions = VersionTable()
    trust, cache = options.trust, options.cache_directory
    authenticity = Authenticity(trust.public_keys, trust.run_id)
    assignment = _assignment(options)
    manager = PolicyManager(versions, assignment)
    loader = PolicyLoader(
        store,
        manager,
        versions,
        _engines(options),
        options.followed,
        name=options.name,
        seed=options.seed,
        authenticity=authenticity,
        freshness=StalenessMonitor(options.stale_after_s, alarming=bool(trust.public_keys)),
        canary=None if assignment is None else _canary(store, options, manager, assignment),
        remembered=None if cache is None else QuarantineCache(cache / "quarantine"),
        prefetcher=_prefetcher(store, options, manager, authenticity),
    )
    return AgentParts(manager, loader, assignment)


def _engines(options: AgentOptions) -> EngineFallback:
    engine_options = EngineOptions(
        options.engine,
        batch_size=options.batch_size,
        trusted_modules=options.trust.trusted_modules,
        trust_native=options.trust.trust_native,
        measure=not options.synchronous,
        values=options.values,
        signature=options.signature,
    )
    return EngineFallback(engine_options, _sandbox(options))


def _sandbox(options: AgentOptions) -> ProgramSandbox | None:
    if options.sandbox is None:
        return None
    directory = options.cache_directory
    cache = None if directory is None else SandboxCache(directory / "tried-programs")
    return ProgramSandbox(options.sandbox, batch_size=options.batch_size, cache=cache)


def _assignment(options: AgentOptions) -> "CanaryAssignment | None":
    if options.canary is None:
        return None
    from actor.canary.canary_assignment import CanaryAssignment

    return CanaryAssignment(options.canary, options.batch_size, options.seed)


def _canary(
    store: PolicyStore, options: AgentOptions, manager: PolicyManager, assignment: "CanaryAssignment"
) -> "CanaryEvaluation":
    from actor.canary.canary_evaluation import LOOK_EVERY_S, CanaryEvaluation
    from actor.canary.canary_ledger import CanaryLedger

    ledger = CanaryLedger(store.notes, options.name)
    look_every_s = 0.0 if options.synchronous else LOOK_EVERY_S
    return CanaryEvaluation(ledger, manager, manager.versions, assignment, look_every_s=look_every_s)


def _prefetcher(
    store: PolicyStore, options: AgentOptions, manager: PolicyManager, authenticity: Authenticity
) -> "Prefetcher | None":
    """Return None unless versions come one newest after the other, in a directory of this machine."""
    is_usual = isinstance(options.followed, Newest) and options.canary is None and not options.synchronous
    if not options.prefetch or not is_usual or not isinstance(store, LocalPolicyStore) or sys.platform != "linux":
        return None
    from actor.prefetch.prefetcher import Prefetcher

    cache = options.cache_directory
    return Prefetcher(
        store,
        manager,
        manager.versions,
        authenticity,
        batch_size=options.batch_size,
        values=options.values,
        remember_in=None if cache is None else cache / "quarantine",
    )
