"""Accounts of rollouts: each number of each sender gets exactly one outcome, and ``lost`` is counted, not inferred.

The module uses no clock and no socket. A lock makes it safe to settle on one thread what arrives on another.
"""

import threading
from collections import Counter
from collections.abc import Container, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import msgspec
from loguru import logger

from shared.errors import CheckpointError, RolloutInvalid, RolloutOutOfBounds
from shared.rollouts.rollout import RolloutAccounts
from shared.transport.arrival_journal import ArrivalJournal

_PEERS_KEPT = 1000
_SESSIONS_KEPT = 10_000  # more than the restarts of any run; bounds memory, journal and checkpoints

Outcome = Literal["learned", "stale", "invalid", "lost"]


class SenderKey(NamedTuple):
    """One session of one actor: a restarted actor keeps its ``actor_id`` and has a new ``session_id``."""

    actor_id: str
    session_id: str

    def __str__(self) -> str:
        return f"actor={self.actor_id!r} session={self.session_id}"


@dataclass(frozen=True)
class RejectedInARow:
    """Rollouts of one actor in a row whose values are out of bounds, with the reason for the last."""

    actor_id: str
    count: int
    why: str


class _Account(msgspec.Struct):
    """Numbers below ``expected`` have an outcome or are in flight; the others were neither received nor announced."""

    expected: int = 0
    in_flight: set[int] = msgspec.field(default_factory=set)


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: RolloutAccounts
    expected: list[tuple[str, str, int]]
    restarts: int = 0


class Ledger:
    """Outcomes of the rollouts of all senders.

    The counts of an earlier session in ``journal`` become ``lost``: no rollout of that session can be learned from.
    ``restore`` replaces them by the accounts of a checkpoint; rollouts that arrived after it stay lost.
    """

    def __init__(self, journal: ArrivalJournal | None = None) -> None:
        self._lock = threading.RLock()
        self._accounts = RolloutAccounts()
        self._senders: dict[SenderKey, _Account] = {}
        self._rejected: dict[str, int] = {}  # in a row, by actor
        self._most_rejected: RejectedInARow | None = None
        self._restarts_before = 0
        self._journal: ArrivalJournal | None = None
        before = {} if journal is None else {SenderKey(*sender): count for sender, count in journal.counts.items()}
        for sender, count in before.items():
            self.announced(sender, count)
        self._journal = journal
        self._restored: dict[SenderKey, int] = before  # counts of earlier sessions of the learner

    @property
    def accounts(self) -> RolloutAccounts:
        with self._lock:
            return msgspec.structs.replace(self._accounts)

    @property
    def restarts(self) -> int:
        """Number of actor sessions that were not the first of their ``actor_id`` since the start or the checkpoint."""
        with self._lock:
            active = [key for key, account in self._senders.items() if account.expected > self._restored.get(key, -1)]
            return self._restarts_before + len(active) - len({key.actor_id for key in active})

    @property
    def most_rejected(self) -> RejectedInARow | None:
        """The longest row of rejected rollouts of one actor without a valid one between them, None if there is none."""
        return self._most_rejected

    def expected(self, sender: SenderKey) -> int:
        """Return the lowest number that was neither received nor announced."""
        with self._lock:
            return self._senders.get(sender, _Account()).expected

    def arrived(self, sender: SenderKey, sequence: int) -> bool:
        """Count rollout ``sequence`` as in flight and skipped ones as lost; return False if it was counted before."""
        with self._lock:
            account = self._senders.setdefault(sender, _Account())
            if sequence < account.expected:
                return False
            self._close_gap(account, sequence)
            account.expected = sequence + 1
            account.in_flight.add(sequence)
            self._accounts.sent += 1
            self._record(sender, account)
            return True

    def announced(self, sender: SenderKey, sent: int) -> None:
        """Count rollouts below ``sent`` that did not arrive as lost: the sender says that they are not in flight."""
        with self._lock:
            account = self._senders.setdefault(sender, _Account())
            if sent > account.expected:
                self._close_gap(account, sent)
                self._record(sender, account)

    def settle(self, sender: SenderKey, sequence: int, outcome: Outcome) -> None:
        """Give a rollout in flight its outcome. Raises ValueError if it is not in flight."""
        with self._lock:
            account = self._senders.get(sender)
            if account is None or sequence not in account.in_flight:
                raise ValueError(
                    f"rollout {sequence} of {sender} is not in flight: it was not received here, or was counted before"
                )
            account.in_flight.remove(sequence)
            self._count(outcome, 1)

    def accept(self, sender: SenderKey) -> None:
        """Note that the values of a rollout are within their bounds; its outcome is decided later."""
        with self._lock:
            self._rejected.pop(sender.actor_id, None)

    def reject(self, sender: SenderKey, sequence: int, error: RolloutInvalid) -> None:
        """Give a rollout in flight the outcome "invalid" because of ``error``. Raises ValueError as ``settle`` does."""
        with self._lock:
            self.settle(sender, sequence, "invalid")
            if isinstance(error, RolloutOutOfBounds):
                if len(self._rejected) > _PEERS_KEPT:
                    self._rejected.clear()
                count = self._rejected.get(sender.actor_id, 0) + 1
                self._rejected[sender.actor_id] = count
                if self._most_rejected is None or count > self._most_rejected.count:
                    self._most_rejected = RejectedInARow(sender.actor_id, count, str(error))

    def forget_oldest(self, present: Container[SenderKey]) -> None:
        """Forget the oldest sessions beyond a limit, except those ``present`` or with rollouts in flight.

        The totals stay. If a forgotten session returns, the count that it announces is counted again, as lost.
        """
        if len(self._senders) <= _SESSIONS_KEPT:
            return
        with self._lock:
            restarts = self.restarts
            gone = (key for key, account in self._senders.items() if key not in present and not account.in_flight)
            surplus = len(self._senders) - _SESSIONS_KEPT + _SESSIONS_KEPT // 10  # seldom, because it takes a while
            for sender in list(islice(gone, surplus)):
                del self._senders[sender]
                self._restored.pop(sender, None)
                if self._journal is not None:
                    self._journal.forget(*sender)
            self._restarts_before += restarts - self.restarts

    def count_foreign(self) -> None:
        """Count a rollout of another run as invalid; it has no sender here."""
        with self._lock:
            self._accounts.sent += 1
            self._accounts.invalid += 1

    def lose_in_flight(self) -> None:
        with self._lock:
            for account in self._senders.values():
                self._count("lost", len(account.in_flight))
                account.in_flight.clear()

    def state(self) -> bytes:
        """Return the accounts as MessagePack, with rollouts in flight as lost: checkpoints contain no rollouts."""
        with self._lock:
            in_flight = sum(len(account.in_flight) for account in self._senders.values())
            accounts = msgspec.structs.replace(self._accounts, lost=self._accounts.lost + in_flight)
            return msgspec.msgpack.encode(
                _Saved(accounts, [(*key, account.expected) for key, account in self._senders.items()], self.restarts)
            )

    def restore(self, state: bytes) -> None:
        """Continue from saved accounts.

        Counts since the start of this process are applied to them: rollouts that the checkpoint does not contain are
        lost, and those that wait here stay in flight. Raises CheckpointError.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CheckpointError(f"the checkpoint contains no valid rollout accounts: {error}") from error
        with self._lock:
            present, self._senders = self._senders, {}
            self._accounts = saved.accounts
            for actor_id, session_id, expected in saved.expected:
                key = SenderKey(actor_id, session_id)
                self._senders[key] = _Account(expected)
                self._restored[key] = max(expected, self._restored.get(key, 0))
            self._restarts_before = saved.restarts
            for sender, account in present.items():
                for sequence in sorted(account.in_flight):
                    self.arrived(sender, sequence)
                self.announced(sender, account.expected)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _record(self, sender: SenderKey, account: _Account) -> None:
        if self._journal is not None:
            self._journal.write(*sender, account.expected)

    def _close_gap(self, account: _Account, up_to: int) -> None:
        missing = up_to - account.expected
        if missing > 0:
            account.expected = up_to
            self._accounts.sent += missing
            self._count("lost", missing)

    def _count(self, outcome: Outcome, number: int) -> None:
        setattr(self._accounts, outcome, getattr(self._accounts, outcome) + number)


class RateLimitedWarnings:
    """Log the first, second, fourth, eighth … fault of each peer."""

    def __init__(self) -> None:
        self._faults: Counter[Hashable] = Counter()

    def warn(self, peer: Hashable, message: str) -> None:
        if len(self._faults) > _PEERS_KEPT:
            self._faults.clear()
        self._faults[peer] += 1
        count = self._faults[peer]
        if count & (count - 1) == 0:
            logger.opt(depth=1).warning("{} count={}", message, count)
