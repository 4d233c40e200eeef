"""The strategy that adopts a new version only if its returns are not worse.

``CanaryLedger`` holds the open evaluation for all actors of the store, ``CanaryAssignment`` assigns the episodes of
this actor, and ``rank_sum_test`` compares the returns. Newer versions wait while one is evaluated; then the newest of
them is next.
"""

import time
from collections.abc import Container, Sequence

from actor.canary.canary_assignment import CanaryAssignment, Evidence
from actor.canary.canary_ledger import BEAT_S, CanaryLedger, CanaryVerdict, Returns, Version
from actor.canary.rank_sum import rank_sum_test
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from actor.versions.follow_rules import Newest
from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Reports
from actor.versions.selection_strategy import SelectionStrategy
from shared.engines.engine import Engine, EngineKind

LOOK_EVERY_S = 0.25


class CanaryEvaluation(SelectionStrategy):
    """Selects, evaluates and adopts candidates together with the other actors of the store.

    ``look_every_s`` is the least time between two looks at the ledger.
    """

    decides_with_others = True

    def __init__(
        self,
        ledger: CanaryLedger,
        manager: PolicyManager,
        assignment: CanaryAssignment,
        quarantine: QuarantineReporter,
        reports: Reports,
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.follow = Newest()
        self._ledger = ledger
        self._manager = manager
        self._assignment = assignment
        self._quarantine = quarantine
        self._reports = reports
        self._look_every_s = look_every_s
        self._looked_at_s = float("-inf")
        self._sent = Returns()
        self._sent_at_s = float("-inf")
        self._settled = -1  # the last evaluation whose verdict was carried out here
        self._unjoinable = -1  # an evaluation of another content than the store has under that number
        self._joined: str | None = None  # the digest of the last candidate here
        self._is_waiting = False  # no evaluation could be opened: another look comes first
        self._fault_reported = False

    def look(self) -> None:
        """Read what the other actors did, report the returns seen here, and carry out a verdict."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < self._look_every_s:
            return
        self._looked_at_s = now_s
        self._is_waiting = False
        self._ledger.look()
        self._leave_finished()
        if self._ledger.is_open:
            self._take_part(now_s)
        if self._ledger.verdict is not None and self._settled != self._ledger.number:
            self._settle(self._ledger.verdict)
        self._report_fault()

    def select(self, known: Sequence[int], unusable: Container[int]) -> int | None:
        """Return the version to load now: the champion, the candidate, or the next candidate; None if there is none."""
        champion, held = self._ledger.champion, self._manager.held
        usable = [version for version in known if version not in unusable]
        if champion is not None and champion.version in usable and (held is None or champion.version > held.version):
            return champion.version
        if held is None:
            return max([version for version in usable if not self._is_candidate(version)] or usable, default=None)
        if self._manager.candidate is not None or self._is_waiting:
            return None
        if self._ledger.is_open and not self._ledger.is_abandoned:
            return next((v for v in usable if self._is_candidate(v) and self._can_join(held)), None)
        return max((version for version in usable if version > held.version), default=None)

    def take_spare(self, kind: EngineKind, program_digest: str) -> Engine | None:
        """Return an engine that may be overwritten; never that of the standby, which a candidate does not replace."""
        return self._manager.take_spare(kind, program_digest, withdraw_ready=False)

    def place(self, policy: LoadedPolicy) -> None:
        """Adopt ``policy``, evaluate it, or discard it if it came too late."""
        ledger, held = self._ledger, self._manager.held
        ours = Version(policy.version, policy.digest)
        if held is None:
            if ledger.evaluation is None and not ledger.open(ours, None) and ledger.evaluation is not None:
                self._manager.discard(policy)  # another actor's version is the first of all
            else:
                self._manager.offer(policy)
        elif ours == ledger.champion or policy.digest == held.digest:
            self._manager.offer(policy)
        elif self._is_evaluated(ours, held):
            self._begin(policy, held)
        elif ledger.is_open and not ledger.is_abandoned:
            self._unjoinable = ledger.number
            self._manager.discard(policy)
        elif ledger.open(ours, Version(held.version, held.digest)) or self._is_evaluated(ours, held):
            self._begin(policy, held)
        else:
            self._is_waiting = True
            self._manager.discard(policy)

    def failed(self, digest: str, reason: str) -> None:
        """Decide against the candidate if ``digest`` is its content and it acted here."""
        evaluation = self._ledger.evaluation
        is_candidate = self._ledger.is_open and evaluation is not None and evaluation.candidate.digest == digest
        if is_candidate and self._joined == digest:
            self._ledger.decide(is_worse=True, reason=reason)

    def episodes_ended(self, finished: Sequence[FinishedEpisode]) -> None:
        """Count the returns of finished episodes."""
        self._assignment.ended(finished)

    def _is_candidate(self, version: int) -> bool:
        evaluation = self._ledger.evaluation
        return self._ledger.is_open and evaluation is not None and evaluation.candidate.version == version

    def _is_evaluated(self, version: Version, held: LoadedPolicy) -> bool:
        evaluation = self._ledger.evaluation
        is_candidate = self._ledger.is_open and evaluation is not None and evaluation.candidate == version
        return is_candidate and self._can_join(held)

    def _can_join(self, held: LoadedPolicy) -> bool:
        return self._is_baseline(held.digest) and self._unjoinable != self._ledger.number

    def _is_baseline(self, digest: str) -> bool:
        evaluation = self._ledger.evaluation
        return evaluation is not None and evaluation.baseline is not None and evaluation.baseline.digest == digest

    def _begin(self, policy: LoadedPolicy, held: LoadedPolicy) -> None:
        self._manager.offer_candidate(policy)
        self._joined = policy.digest
        self._sent_at_s = float("-inf")
        self._reports.add(
            "INFO",
            f"policy version {policy.version} in canary evaluation share={self._assignment.share:g} "
            f"baseline={held.version}",
        )

    def _leave_finished(self) -> None:
        """Withdraw a candidate after which the other actors have already opened another evaluation."""
        candidate, evaluation = self._manager.candidate, self._ledger.evaluation
        if candidate is not None and (evaluation is None or evaluation.candidate.digest != candidate.digest):
            self._manager.withdraw_candidate(candidate)

    def _take_part(self, now_s: float) -> None:
        """Report the returns seen here, and decide once all actors together have seen enough."""
        candidate = self._manager.candidate
        if candidate is None:
            return
        returns = self._returns(self._assignment.evidence, candidate)
        if (returns.candidate, returns.baseline) != (self._sent.candidate, self._sent.baseline) or (
            now_s - self._sent_at_s >= BEAT_S
        ):
            self._sent = Returns(returns.candidate, returns.baseline, self._sent.beat + 1)
            self._sent_at_s = now_s
            self._ledger.report(self._sent)
        everyone = [returns, *self._ledger.returns.values()]
        found = rank_sum_test(
            [value for each in everyone for value in each.candidate],
            [value for each in everyone for value in each.baseline],
        )
        if found is not None:
            prefix = "worse returns: " if found.is_worse else ""
            verdict = self._ledger.decide(is_worse=found.is_worse, reason=prefix + found.describe())
            if verdict.is_worse:
                self._quarantine.failed_while_acting(candidate.digest, verdict.reason)

    def _returns(self, seen: Evidence | None, candidate: LoadedPolicy) -> Returns:
        if seen is None or seen.candidate is not candidate or not self._is_baseline(seen.baseline.digest):
            return Returns()
        return Returns(seen.candidate_returns, seen.baseline_returns)

    def _settle(self, verdict: CanaryVerdict) -> None:
        self._settled = self._ledger.number
        evaluation, candidate, held = self._ledger.evaluation, self._manager.candidate, self._manager.held
        assert evaluation is not None
        version, digest = evaluation.candidate.version, evaluation.candidate.digest
        if verdict.is_worse and self._manager.versions.quarantine_reason(digest) is None:
            if held is None or held.digest != digest:
                self._manager.versions.fail(version, verdict.reason, digest=digest)
            self._reports.add("ERROR", f"policy version {version} quarantined reason={verdict.reason}")
        elif not verdict.is_worse:
            self._reports.add("INFO", f"policy version {version} passed canary evaluation reason={verdict.reason}")
        if candidate is not None and candidate.digest == digest:
            if verdict.is_worse:
                self._manager.withdraw_candidate(candidate)
            else:
                self._manager.promote_candidate(candidate)

    def _report_fault(self) -> None:
        fault = self._ledger.fault
        if fault is not None and not self._fault_reported:
            self._reports.add("WARNING", f"canary evaluation of this actor alone, notes are not shared error={fault}")
        self._fault_reported = fault is not None
