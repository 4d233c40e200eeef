"""The loader of an agent, put together from its options. Only this module imports the canary and the prefetcher."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from actor.agent_options import AgentOptions
from actor.guard.call_guard import CallGuard
from actor.guard.unclean_ends import UncleanEnd
from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from actor.sandbox.cache_directory import usable_cache
from actor.sandbox.program_sandbox import ProgramSandbox, SandboxCache
from actor.versions.follow_rules import History, Newest
from actor.versions.loader_thread import PolicyLoader
from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_cache import QuarantineCache
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Reports
from actor.versions.selection_strategy import FollowSelection, HistorySelection, SelectionStrategy
from actor.versions.staleness import StalenessMonitor
from actor.versions.store_listing import StoreListing
from actor.versions.version_life import VersionTable
from actor.versions.version_loading import VersionLoader
from actor.versions.version_source import VersionSource
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, PolicyStore


def build_parts(store: PolicyStore, options: AgentOptions) -> tuple[PolicyLoader, CallGuard]:
    """Return a loader with all its parts, and the guard of the agent's calls. Starts no thread and no process.

    Contents that have ended too many earlier processes are quarantined.
    """
    options = replace(options, cache_directory=usable_cache(options.cache_directory))
    guard = CallGuard(options.cache_directory, options.call_deadline_s)
    reports, trust, cache = Reports(), options.trust, options.cache_directory
    quarantine_cache = None if cache is None else QuarantineCache(cache / "quarantine")
    quarantine = QuarantineReporter(store, quarantine_cache, options.name, reports)
    manager, strategy = _manager_and_strategy(store, options, quarantine, reports)
    authenticity = Authenticity(trust.public_keys, trust.run_id)
    _quarantine_ended(guard.earlier_ends, manager.versions, quarantine, reports)
    listing = StoreListing(store, manager, reports)
    loader = PolicyLoader(
        listing,
        manager,
        strategy,
        VersionLoader(
            listing, manager.versions, _engines(options), authenticity, quarantine=quarantine, reports=reports
        ),
        source=_source(store, options, manager, authenticity, reports),
        staleness=StalenessMonitor(options.stale_after_s, alarming=bool(trust.public_keys)),
        name=options.name,
    )
    return loader, guard


def _quarantine_ended(
    ends: Sequence[UncleanEnd], versions: VersionTable, quarantine: QuarantineReporter, reports: Reports
) -> None:
    for end in ends:
        if end.is_last:
            reason = f"UncleanEnd: {end.fault}; it has ended {end.ends} processes on this machine"
            versions.quarantine(end.digest, reason)
            quarantine.ended_processes(end.digest, reason)
            reports.add("ERROR", f"policy version {end.version} quarantined reason={reason}")
        else:
            reports.add("WARNING", f"policy version {end.version} ended an actor ends={end.ends} reason={end.fault}")


def _manager_and_strategy(
    store: PolicyStore, options: AgentOptions, quarantine: QuarantineReporter, reports: Reports
) -> tuple[PolicyManager, SelectionStrategy]:
    follow = options.followed
    if options.canary is None:
        manager = PolicyManager(VersionTable())
        if isinstance(follow, History):
            return manager, HistorySelection(follow, manager, options.seed)
        return manager, FollowSelection(follow, manager)
    from actor.canary.canary_assignment import CanaryAssignment
    from actor.canary.canary_evaluation import LOOK_EVERY_S, CanaryEvaluation
    from actor.canary.canary_ledger import CanaryLedger

    assignment = CanaryAssignment(options.canary, options.batch_size, options.seed)
    manager = PolicyManager(VersionTable(), assignment)
    ledger = CanaryLedger(store.notes, options.name)
    look_every_s = 0.0 if options.synchronous else LOOK_EVERY_S
    evaluation = CanaryEvaluation(ledger, manager, assignment, quarantine, reports, look_every_s=look_every_s)
    return manager, evaluation


def _engines(options: AgentOptions) -> EngineFallback:
    engine_options = EngineOptions(
        options.engine,
        batch_size=options.batch_size,
        trust=options.trust.for_programs,
        measure=not options.synchronous,
        values=options.values,
        signature=options.signature,
    )
    return EngineFallback(engine_options, _sandbox(options))


def _sandbox(options: AgentOptions) -> ProgramSandbox | None:
    if options.sandbox is None:
        return None
    return ProgramSandbox(
        options.sandbox,
        batch_size=options.batch_size,
        cache=SandboxCache.below(options.cache_directory),
        trust=options.trust.for_programs,
    )


def _source(
    store: PolicyStore, options: AgentOptions, manager: PolicyManager, authenticity: Authenticity, reports: Reports
) -> VersionSource:
    """Return a prefetcher if versions come one newest after the other, in a directory of this machine."""
    is_usual = isinstance(options.followed, Newest) and options.canary is None and not options.synchronous
    if not options.prefetch or not is_usual or not isinstance(store, LocalPolicyStore) or sys.platform != "linux":
        return VersionSource()
    try:
        from actor.prefetch.prefetcher import Prefetcher
    except ModuleNotFoundError:  # installed without this option
        return VersionSource()
    cache = options.cache_directory
    return Prefetcher(
        store,
        manager,
        authenticity,
        reports,
        batch_size=options.batch_size,
        values=options.values,
        quarantine_directory=None if cache is None else cache / "quarantine",
    )
