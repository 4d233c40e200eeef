"""Rollouts within one process: for ``--actors 0``, for threads, and for tests that need no socket."""

import threading
import time
from collections import deque
from dataclasses import replace

import msgspec
from loguru import logger

from shared.errors import RolloutInvalid, TransportClosed
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.transport.ledger import AccountedReceiver, SenderKey


class InProcessTransport:
    """One receiver and any number of senders. Rollouts are handed over as they are: nothing is encoded or copied."""

    def __init__(self, layout: RolloutLayout, run_id: str, *, synchronous: bool = False) -> None:
        self.receiver = InProcessReceiver(layout, run_id, synchronous=synchronous)

    def sender(self, actor_id: str, *, window: int = 1) -> "InProcessSender":
        """A new life of ``actor_id``, with a window of its own."""
        return InProcessSender(self.receiver, actor_id, window)


class InProcessReceiver(AccountedReceiver):
    """The learner's end (see ``RolloutReceiver``). Made by ``InProcessTransport``."""

    def __init__(self, layout: RolloutLayout, run_id: str, *, synchronous: bool = False) -> None:
        super().__init__()
        self.synchronous = synchronous
        self.changed = threading.Condition()
        self.stopping = False
        self.closed = False
        self._layout = layout
        self._run_id = run_id
        self.wanted_version: int | None = None
        self._queue: deque[Rollout] = deque()
        self._held: list[SenderKey] = []
        self._senders: list[SenderKey] = []
        self._sessions = 0

    @property
    def live_senders(self) -> int:
        """How many senders were not closed."""
        return len(self._senders)

    def receive(self, timeout_s: float) -> Rollout | None:
        """Return the next valid rollout, or None when ``timeout_s`` passed.

        Its sender then has room for another: at once, or with a synchronous receiver after ``resume_senders``.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self.changed:
                self._check_open()
                self.changed.wait_for(lambda: bool(self._queue) or self.closed, deadline_s - time.monotonic())
                self._check_open()
                if not self._queue:
                    return None
                rollout = self._queue.popleft()
                if self.synchronous:
                    self._held.append(SenderKey(rollout.header.actor_id, rollout.header.session_id))
                self.changed.notify_all()
            if self._fits(rollout):
                return rollout

    def resume_senders(self, version: int | None) -> None:
        """Let waiting senders send again, rollouts acted by ``version`` or a newer one (None: by any version)."""
        with self.changed:
            self._check_open()
            self.wanted_version = version
            self._held.clear()
            self.changed.notify_all()

    def stop_actors(self, timeout_s: float) -> None:  # noqa: ARG002  their counts are at hand: nothing to wait for
        """Ask every sender to stop; what is under way is lost. Returns at once."""
        with self.changed:
            self._check_open()
            self.stopping = True
            self._queue.clear()
            self._ledger.lose_under_way()
            self.changed.notify_all()

    def close(self) -> None:
        """Senders go on without a learner. Idempotent."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def join(self, actor_id: str) -> SenderKey:
        """A sender begins."""
        with self.changed:
            self._sessions += 1
            sender = SenderKey(actor_id, f"in-process-{self._sessions}")
            self._senders.append(sender)
            self._ledger.announced(sender, 0)
            return sender

    def leave(self, sender: SenderKey) -> None:
        """A sender was closed."""
        with self.changed:
            self._senders.remove(sender)

    def waiting(self, sender: SenderKey) -> int:
        """How many of the sender's rollouts have no credit yet. The caller holds ``changed``."""
        queued = sum((rollout.header.actor_id, rollout.header.session_id) == sender for rollout in self._queue)
        return queued + self._held.count(sender)

    def put(self, sender: SenderKey, rollout: Rollout) -> None:
        """A rollout arrives. The caller holds ``changed``.

        It is numbered here, by the books, so that a resumed run's worker goes on where the checkpoint's stood.
        """
        sequence = self._ledger.expected(sender)
        header = msgspec.structs.replace(
            rollout.header, actor_id=sender.actor_id, session_id=sender.session_id, sequence=sequence
        )
        self._ledger.arrived(sender, sequence)
        self._queue.append(replace(rollout, header=header))
        self.changed.notify_all()

    def put_nowhere(self, sender: SenderKey) -> None:
        """A rollout was dropped by its sender. The caller holds ``changed``."""
        self._ledger.announced(sender, self._ledger.expected(sender) + 1)

    def _check_open(self) -> None:
        if self.closed:
            raise TransportClosed("this receiver was closed")

    def _fits(self, rollout: Rollout) -> bool:
        sender = SenderKey(rollout.header.actor_id, rollout.header.session_id)
        try:
            if rollout.header.run_id != self._run_id:
                raise RolloutInvalid(f"expected rollouts of run {self._run_id!r}, found run {rollout.header.run_id!r}")
            self._layout.check(rollout)
        except RolloutInvalid as error:
            self._ledger.settle(sender, rollout.header.sequence, "invalid")
            logger.warning("actor {} sent an invalid rollout {}: {}", sender, rollout.header.sequence, error)
            return False
        return True


class InProcessSender:
    """The actor's end (see ``RolloutSender``). Made by ``InProcessTransport.sender``."""

    def __init__(self, receiver: InProcessReceiver, actor_id: str, window: int) -> None:
        self._receiver = receiver
        self._window = window
        self._key = receiver.join(actor_id)
        self._closed = False
        self.sent = 0
        self.lost = 0

    @property
    def learner_alive(self) -> bool:
        """Whether the receiver is open."""
        return not self._receiver.closed

    @property
    def stop_requested(self) -> bool:
        """Whether the learner has said that the training is over."""
        return self._receiver.stopping

    @property
    def wanted_version(self) -> int | None:
        """The version that the next rollout is best acted by, or a newer one; None where any will do."""
        return self._receiver.wanted_version

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until ``send`` would not block. True at once while the learner is away; False on timeout or stop."""
        self._check_open()
        with self._receiver.changed:
            self._receiver.changed.wait_for(self._would_not_block, timeout_s)
            return self._would_not_block() and not self.stop_requested

    def send(self, rollout: Rollout) -> bool:
        """Number the rollout and hand it over; its buffers must not be written to again. False where it is lost.

        Blocks while the window is full and the learner alive, so receive on another thread or between two sends. Raises
        TransportClosed after ``close``.
        """
        self._check_open()
        with self._receiver.changed:
            self._receiver.changed.wait_for(self._would_not_block)
            self.sent += 1
            if self.stop_requested or not self.learner_alive:
                self.lost += 1
                self._receiver.put_nowhere(self._key)
                return False
            self._receiver.put(self._key, rollout)
            return True

    def close(self) -> None:
        """Leave. Idempotent."""
        if not self._closed:
            self._closed = True
            self._receiver.leave(self._key)

    def _would_not_block(self) -> bool:
        waiting = self._receiver.waiting(self._key)
        return waiting < self._window or self.stop_requested or not self.learner_alive

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("this sender was closed; make a new one to send more rollouts")
