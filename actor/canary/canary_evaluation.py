"""The gate on returns: a new version acts in a share of the episodes first, and is adopted unless it does worse.

The trials' log (``actor/canary/canary_ledger.py``) says which version that is, for all actors of the store; the
assignment
(``actor/canary/canary_assignment.py``) say who acts here; the test
(``actor/canary/rank_sum_test.py``) says which is worse. Newer versions
wait while one is on trial; then the newest of them is next, so that no stream of versions is too fast to be judged.
"""

import time
from collections.abc import Container, Iterator, Sequence

from actor.canary.canary_assignment import CanaryAssignment, Evidence
from actor.canary.canary_ledger import BEAT_S, CanaryLedger, CanaryVerdict, Returns, Version
from actor.canary.rank_sum_test import rank_sum_test
from actor.loading.loaded_policy import LoadedPolicy
from actor.versions.policy_manager import PolicyManager
from actor.versions.staleness import Remark
from actor.versions.version_life import VersionTable

LOOK_EVERY_S = 0.25


class CanaryEvaluation:
    """Works on the loader's thread, but for what ``assignment`` do."""

    def __init__(
        self,
        ledger: CanaryLedger,
        manager: PolicyManager,
        versions: VersionTable,
        assignment: CanaryAssignment,
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._ledger = ledger
        self._manager = manager
        self._versions = versions
        self._assignment = assignment
        self._advice: list[tuple[str, str]] = []
        self._look_every_s = look_every_s
        self._looked_at_s = float("-inf")
        self._reported = Returns()
        self._reported_at_s = float("-inf")
        self._settled = -1  # the last trial whose verdict was carried out here
        self._unjoinable = -1  # a trial of something else than the store has under that number
        self._joined: str | None = None  # the digest of what was tried here last
        self._is_waiting = False  # no trial could be begun: another look comes first
        self._fault_told = False
        self._remarks: list[Remark] = []

    def look(self) -> Iterator[Remark]:
        """See what the others did, tell them what was seen here, and carry out a verdict. Returns what to log."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s >= self._look_every_s:
            self._looked_at_s = now_s
            self._is_waiting = False
            self._ledger.look()
            self._leave_what_is_over()
            if self._ledger.is_open:
                self._take_part(now_s)
            if self._ledger.verdict is not None and self._settled != self._ledger.number:
                self._settle(self._ledger.verdict)
            self._tell_of_fault()
        remarks, self._remarks = self._remarks, []
        yield from remarks

    def select(self, known: Sequence[int], unusable: Container[int]) -> int | None:
        """The version to make ready now, or None: the champion, the one on trial, or the next to be tried.

        ``known``: committed versions, ascending. ``unusable``: those not to be tried, or not yet.
        """
        champion, held = self._ledger.champion, self._manager.standing
        usable = [version for version in known if version not in unusable]
        if champion is not None and champion.version in usable and (held is None or champion.version > held.version):
            return champion.version
        if held is None:
            return max([version for version in usable if not self._is_tried(version)] or usable, default=None)
        if self._manager.candidate is not None or self._is_waiting:
            return None
        if self._ledger.is_open and not self._ledger.is_abandoned:
            return next((v for v in usable if self._is_tried(v) and self._can_join(held)), None)
        return max((version for version in usable if version > held.version), default=None)

    def place(self, policy: LoadedPolicy) -> None:
        """Give ``policy``, which was selected and verified, its role: it acts, it is tried, or it was too late."""
        ledger, held = self._ledger, self._manager.standing
        ours = Version(policy.version, policy.digest)
        if held is None:
            if ledger.trial is None and not ledger.open(ours, None) and ledger.trial is not None:
                self._manager.discard(policy)  # another actor's version is the first of all
            else:
                self._manager.offer(policy)
        elif ours == ledger.champion or policy.digest == held.digest:
            self._manager.offer(policy)
        elif self._is_on_trial(ours, held):
            self._begin(policy, held)
        elif ledger.is_open and not ledger.is_abandoned:
            self._unjoinable = ledger.number
            self._manager.discard(policy)
        elif ledger.open(ours, Version(held.version, held.digest)) or self._is_on_trial(ours, held):
            self._begin(policy, held)
        else:
            self._is_waiting = True
            self._manager.discard(policy)

    def take_advice(self) -> list[tuple[str, str]]:
        """What the others should know to be quarantined: digests and reasons, since the last call."""
        advice, self._advice = self._advice, []
        return advice

    def failed(self, digest: str, reason: str) -> None:
        """That content is quarantined here. Where it is what acts on trial, that is the verdict."""
        trial = self._ledger.trial
        if self._ledger.is_open and trial is not None and trial.candidate.digest == digest and self._joined == digest:
            self._ledger.decide(is_worse=True, reason=reason)

    def _is_tried(self, version: int) -> bool:
        trial = self._ledger.trial
        return self._ledger.is_open and trial is not None and trial.candidate.version == version

    def _is_on_trial(self, version: Version, held: LoadedPolicy) -> bool:
        trial = self._ledger.trial
        return self._ledger.is_open and trial is not None and trial.candidate == version and self._can_join(held)

    def _can_join(self, held: LoadedPolicy) -> bool:
        """Whether what acts here is what the version on trial is compared with."""
        trial = self._ledger.trial
        is_same = trial is not None and trial.baseline is not None and trial.baseline.digest == held.digest
        return is_same and self._unjoinable != self._ledger.number

    def _begin(self, policy: LoadedPolicy, held: LoadedPolicy) -> None:
        self._manager.offer_candidate(policy)
        self._joined = policy.digest
        self._reported_at_s = float("-inf")
        line = f"version {policy.version} is on trial: it acts a share {self._assignment.share:g} of the episodes"
        self._remarks.append(("INFO", f"{line}, version {held.version} the others"))

    def _leave_what_is_over(self) -> None:
        """The others went on to another trial while this actor heard nothing."""
        candidate, trial = self._manager.candidate, self._ledger.trial
        if candidate is not None and (trial is None or trial.candidate.digest != candidate.digest):
            self._manager.withdraw_candidate(candidate)

    def _take_part(self, now_s: float) -> None:
        """Report what was seen here, and give the verdict once all actors together have seen enough."""
        seen = self._assignment.evidence
        candidate = self._manager.candidate
        if candidate is None:
            return
        returns = Returns()
        if seen is not None and seen.candidate is candidate and self._is_baseline(seen):
            returns = Returns(seen.candidate_returns, seen.baseline_returns)
        before = (self._reported.candidate, self._reported.baseline)
        if (returns.candidate, returns.baseline) != before or now_s - self._reported_at_s >= BEAT_S:
            self._reported = Returns(returns.candidate, returns.baseline, self._reported.beat + 1)
            self._reported_at_s = now_s
            self._ledger.report(self._reported)
        everyone = [returns, *self._ledger.returns.values()]
        found = rank_sum_test(
            [value for each in everyone for value in each.candidate],
            [value for each in everyone for value in each.baseline],
        )
        if found is not None:
            prefix = "worse returns: " if found.is_worse else ""
            verdict = self._ledger.decide(is_worse=found.is_worse, reason=prefix + found.describe())
            if verdict.is_worse:
                self._advice.append((candidate.digest, verdict.reason))

    def _is_baseline(self, seen: Evidence) -> bool:
        trial = self._ledger.trial
        return trial is not None and trial.baseline is not None and trial.baseline.digest == seen.baseline.digest

    def _settle(self, verdict: CanaryVerdict) -> None:
        self._settled = self._ledger.number
        trial, candidate, held = self._ledger.trial, self._manager.candidate, self._manager.standing
        assert trial is not None
        version, digest = trial.candidate.version, trial.candidate.digest
        is_held = candidate is not None and candidate.digest == digest
        if verdict.is_worse and self._versions.quarantine_reason(digest) is None:
            if held is None or held.digest != digest:
                self._versions.fail(version, verdict.reason, digest=digest)
            self._remarks.append(("ERROR", f"version {version} is quarantined: {verdict.reason}"))
        elif not verdict.is_worse:
            self._remarks.append(("INFO", f"version {version} is adopted: {verdict.reason}"))
        if candidate is not None and is_held:
            if verdict.is_worse:
                self._manager.withdraw_candidate(candidate)
            else:
                self._manager.promote_candidate(candidate)

    def _tell_of_fault(self) -> None:
        if self._ledger.fault is not None and not self._fault_told:
            line = (
                f"trials are not shared, and versions are judged on this actor's episodes alone: {self._ledger.fault}"
            )
            self._remarks.append(("WARNING", line))
        self._fault_told = self._ledger.fault is not None
