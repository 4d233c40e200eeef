"""The books over rollouts: every number of every sender ends in exactly one place, and ``lost`` is never inferred.

Pure accounting: no clock, no socket. A lock makes it safe to count on one thread what arrives on another.
"""

import threading
from typing import Literal, NamedTuple

import msgspec

from shared.errors import CheckpointError
from shared.rollouts.rollout import Rollout
from shared.rollouts.rollout_accounts import RolloutAccounts
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.rate_limited_warnings import RateLimitedWarnings

Place = Literal["learned", "stale", "invalid", "lost"]


class SenderKey(NamedTuple):
    """One life of one actor: a restarted actor has its old ``actor_id`` and a new ``session_id``."""

    actor_id: str
    session_id: str

    def __str__(self) -> str:
        return f"{self.actor_id!r} ({self.session_id})"


class _Book(msgspec.Struct):
    """Numbers below ``expected`` are in a place or under way; those from ``expected`` on were not heard of yet."""

    expected: int = 0
    under_way: set[int] = msgspec.field(default_factory=set)


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accounts: RolloutAccounts
    expected: list[tuple[str, str, int]]
    restarts: int = 0


class Ledger:
    """Where each rollout of each sender went."""

    def __init__(self, journal: ArrivalJournal | None = None) -> None:
        """What a learner before this one noted in ``journal`` was learned from by nobody who is left, and is lost.

        Where a checkpoint is restored, its books say better; what was heard after it is lost then.
        """
        self._lock = threading.RLock()
        self._accounts = RolloutAccounts()
        self._books: dict[SenderKey, _Book] = {}
        self._restarts_before = 0
        self._journal: ArrivalJournal | None = None
        before = {} if journal is None else {SenderKey(*sender): heard for sender, heard in journal.heard.items()}
        for sender, heard in before.items():
            self.announced(sender, heard)
        self._journal = journal
        self._restored: dict[SenderKey, int] = before  # what learners before this one had heard of each

    @property
    def accounts(self) -> RolloutAccounts:
        """A copy of the totals."""
        with self._lock:
            return msgspec.structs.replace(self._accounts)

    @property
    def restarts(self) -> int:
        """How many incarnations were not the first of their ``actor_id``.

        That an actor is another one than before a checkpoint is no restart: the whole run may have been resumed.
        """
        with self._lock:
            heard = [key for key, book in self._books.items() if book.expected > self._restored.get(key, -1)]
            return self._restarts_before + len(heard) - len({key.actor_id for key in heard})

    def expected(self, sender: SenderKey) -> int:
        """The lowest number that was not heard of yet."""
        with self._lock:
            return self._books.get(sender, _Book()).expected

    def arrived(self, sender: SenderKey, sequence: int) -> bool:
        """Rollout ``sequence`` is here: it is under way, and the numbers that it skipped are lost.

        False, and nothing is counted, where that number has been accounted for before.
        """
        with self._lock:
            book = self._books.setdefault(sender, _Book())
            if sequence < book.expected:
                return False
            self._close_gap(book, sequence)
            book.expected = sequence + 1
            book.under_way.add(sequence)
            self._accounts.sent += 1
            self._note(sender, book)
            return True

    def announced(self, sender: SenderKey, sent: int) -> None:
        """The sender says that it has sent ``sent`` so far, and that those not heard of will never come."""
        with self._lock:
            book = self._books.setdefault(sender, _Book())
            if sent > book.expected:
                self._close_gap(book, sent)
                self._note(sender, book)

    def settle(self, sender: SenderKey, sequence: int, place: Place) -> None:
        """Put a rollout that is under way in its place. Raises ValueError where it is not under way."""
        with self._lock:
            book = self._books.get(sender)
            if book is None or sequence not in book.under_way:
                raise ValueError(
                    f"rollout {sequence} of {sender} is not under way: it was not received here, or is counted already"
                )
            book.under_way.remove(sequence)
            self._count(place, 1)

    def count_foreign(self) -> None:
        """A rollout that belongs to another run: invalid, and in nobody's numbers."""
        with self._lock:
            self._accounts.sent += 1
            self._accounts.invalid += 1

    def lose_under_way(self) -> None:
        """Whatever is under way will not be learned from: nobody is left to do it."""
        with self._lock:
            for book in self._books.values():
                self._count("lost", len(book.under_way))
                book.under_way.clear()

    def state(self) -> bytes:
        """The books, MessagePack. What is under way stands there as lost: a checkpoint holds no rollouts."""
        with self._lock:
            under_way = sum(len(book.under_way) for book in self._books.values())
            accounts = msgspec.structs.replace(self._accounts, lost=self._accounts.lost + under_way)
            return msgspec.msgpack.encode(
                _Saved(accounts, [(*key, book.expected) for key, book in self._books.items()], self.restarts)
            )

    def restore(self, state: bytes) -> None:
        """Go on from saved books.

        What senders said between the start of this process and now is told again to the restored books, so the rollouts
        that the checkpoint does not know of are lost, and those that wait here stay under way. Raises CheckpointError.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CheckpointError(f"the checkpoint holds no books of rollouts: {error}") from error
        with self._lock:
            heard, self._books = self._books, {}
            self._accounts = saved.accounts
            for actor_id, session_id, expected in saved.expected:
                self._books[SenderKey(actor_id, session_id)] = _Book(expected)
                key = SenderKey(actor_id, session_id)
                self._restored[key] = max(expected, self._restored.get(key, 0))
            self._restarts_before = saved.restarts
            for sender, book in heard.items():
                for sequence in sorted(book.under_way):
                    self.arrived(sender, sequence)
                self.announced(sender, book.expected)

    def close(self) -> None:
        """Let go of the journal. Idempotent."""
        if self._journal is not None:
            self._journal.close()

    def _note(self, sender: SenderKey, book: _Book) -> None:
        if self._journal is not None:
            self._journal.note(*sender, book.expected)

    def _close_gap(self, book: _Book, up_to: int) -> None:
        missing = up_to - book.expected
        if missing > 0:
            book.expected = up_to
            self._accounts.sent += missing
            self._count("lost", missing)

    def _count(self, place: Place, how_many: int) -> None:
        setattr(self._accounts, place, getattr(self._accounts, place) + how_many)


class AccountedReceiver:
    """The half of a receiver that is bookkeeping, the same for every transport."""

    def __init__(self, journal: ArrivalJournal | None = None) -> None:
        self._ledger = Ledger(journal)
        self._complaints = RateLimitedWarnings()

    @property
    def accounts(self) -> RolloutAccounts:
        """The books over all senders so far; a rollout under way is ``sent`` but in none of the four places yet."""
        return self._ledger.accounts

    @property
    def actor_restarts(self) -> int:
        """How often a known ``actor_id`` came back as a new process."""
        return self._ledger.restarts

    def count_learned(self, rollout: Rollout) -> None:
        """The rollout went into an update. Raises ValueError where it was counted before."""
        self._ledger.settle(*_whose(rollout), "learned")

    def count_stale(self, rollout: Rollout) -> None:
        """The rollout was too old to learn from. Raises ValueError where it was counted before."""
        self._ledger.settle(*_whose(rollout), "stale")

    def count_invalid(self, rollout: Rollout, why: str) -> None:
        """The rollout cannot be what it says. Logs its sender. Raises ValueError where it was counted before."""
        sender, sequence = _whose(rollout)
        self._ledger.settle(sender, sequence, "invalid")
        self._complaints.add(sender, f"actor {sender} sent an invalid rollout {sequence}: {why}")

    def state(self) -> bytes:
        """The books as a checkpoint keeps them."""
        return self._ledger.state()

    def restore(self, state: bytes) -> None:
        """Go on from a checkpoint's books. Call it before anything was received. Raises CheckpointError."""
        self._ledger.restore(state)


def _whose(rollout: Rollout) -> tuple[SenderKey, int]:
    header = rollout.header
    return SenderKey(header.actor_id, header.session_id), header.sequence
