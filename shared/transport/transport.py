"""The interface of transports. Every implementation passes ``tests/contract/test_transport.py``.

Flow control is by credit: a sender may have ``window`` rollouts in flight that the learner has not yet received. So a
slow learner slows actors, memory stays bounded, and rollouts stay fresh. Without heartbeats of the learner a sender
never blocks: it counts rollouts as lost, and the actor continues.

Accounting: a sender numbers its rollouts from 0. Every number gets exactly one of four outcomes: learned, stale,
invalid, lost. ``lost`` is counted from gaps in the numbers, from the counts that senders announce, and from the journal
of a killed learner; it is never inferred from the other counts.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from shared.rollouts.rollout import Rollout, RolloutAccounts
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.rollout_ledger import Ledger, RateLimitedWarnings, RejectedInARow, SenderKey


class RolloutSender(Protocol):
    """The end of an actor."""

    @property
    def learner_alive(self) -> bool:
        """True when a message of the learner arrived within ``learner_timeout_s``, and before that time."""

    @property
    def stop_requested(self) -> bool:
        """True when the learner has ended the training."""

    @property
    def wanted_version(self) -> int | None:
        """The next rollout should be acted by this version or a newer one; None for any."""

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until ``send`` would not block (or drop); return False after ``timeout_s`` or a stop request."""

    def send(self, rollout: Rollout) -> bool:
        """Number a rollout and send it; return False if it is lost. Its buffers must not be written to afterwards.

        Blocks while the window is full and the learner alive. Raises TransportClosed after ``close``.
        """

    def close(self) -> None:
        """Announce the final count and flush for a bounded time. Idempotent."""


class RolloutReceiver(ABC):
    """The end of the learner. Invalid rollouts are counted and logged with their sender, never returned.

    The sender of an invalid rollout has room again at once: no update follows that it could wait for.

    Subclasses set ``synchronous``: True when a sender whose rollout was received waits for ``resume_senders``.
    """

    synchronous: bool

    def __init__(self, journal: ArrivalJournal | None = None) -> None:
        self._ledger = Ledger(journal)
        self._warnings = RateLimitedWarnings()

    @property
    def accounts(self) -> RolloutAccounts:
        """Counts over all senders. A rollout in flight is counted in ``sent`` only."""
        return self._ledger.accounts

    @property
    def actor_restarts(self) -> int:
        """Number of times that an ``actor_id`` came back in a new session."""
        return self._ledger.restarts

    @property
    def most_rejected(self) -> RejectedInARow | None:
        """The longest row of rollouts of one actor that were rejected for their values, None if there is none."""
        return self._ledger.most_rejected

    @property
    @abstractmethod
    def live_senders(self) -> int:
        """Number of senders that are connected and have not left."""

    @abstractmethod
    def receive(self, timeout_s: float) -> Rollout | None:
        """Return the next valid rollout, or None when ``timeout_s`` passed.

        Its sender then has room for another: at once, or with a synchronous receiver after ``resume_senders``.
        """

    @abstractmethod
    def resume_senders(self, version: int | None) -> None:
        """Let waiting senders send again, rollouts acted by ``version`` or a newer one (None: by any version)."""

    def count_learned(self, rollout: Rollout) -> None:
        """Count a rollout as learned. Raises ValueError if it was counted before, as the next two do."""
        self._ledger.settle(*_origin(rollout), "learned")

    def count_stale(self, rollout: Rollout) -> None:
        """Count a rollout as too old to learn from."""
        self._ledger.settle(*_origin(rollout), "stale")

    def count_invalid(self, rollout: Rollout, why: str) -> None:
        """Count a rollout as invalid and log it with its sender."""
        sender, sequence = _origin(rollout)
        self._ledger.settle(sender, sequence, "invalid")
        self._warnings.warn(sender, f"invalid rollout received {sender} sequence={sequence} error={why}")

    @abstractmethod
    def stop_actors(self, timeout_s: float) -> None:
        """Ask every sender to stop and wait for final counts, at most ``timeout_s``. Rollouts in flight are lost."""

    def state(self) -> bytes:
        """Return the accounts for a checkpoint."""
        return self._ledger.state()

    def restore(self, state: bytes) -> None:
        """Continue from the accounts of a checkpoint, before the first ``receive``. Raises CheckpointError.

        Rollouts learned after the checkpoint count as lost when their sender announces them again.
        """
        self._ledger.restore(state)

    @abstractmethod
    def close(self) -> None:
        """Release everything. Idempotent."""


def _origin(rollout: Rollout) -> tuple[SenderKey, int]:
    header = rollout.header
    return SenderKey(header.actor_id, header.session_id), header.sequence
