"""Transport within one process: for ``--actors 0``, for threads, and for tests without sockets."""

import threading
import time
from collections import deque
from dataclasses import replace

import msgspec

from shared.errors import RolloutInvalid, TransportClosed
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.transport.rollout_ledger import SenderKey
from shared.transport.transport import RolloutReceiver


class InProcessReceiver(RolloutReceiver):
    """``RolloutReceiver`` for any number of ``InProcessSender``. Rollouts are passed on without encoding or copying."""

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
        return len(self._senders)

    def receive(self, timeout_s: float) -> Rollout | None:
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
            try:
                self._check(rollout)
            except RolloutInvalid as error:
                self._reject(rollout, error)
            else:
                self._ledger.accept(SenderKey(rollout.header.actor_id, rollout.header.session_id))
                return rollout

    def resume_senders(self, version: int | None) -> None:
        with self.changed:
            self._check_open()
            self.wanted_version = version
            self._held.clear()
            self.changed.notify_all()

    def stop_actors(self, timeout_s: float) -> None:  # noqa: ARG002  counts are known at once
        with self.changed:
            self._check_open()
            self.stopping = True
            self._queue.clear()
            self._ledger.lose_in_flight()
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def join(self, actor_id: str) -> SenderKey:
        with self.changed:
            self._sessions += 1
            sender = SenderKey(actor_id, f"in-process-{self._sessions}")
            self._senders.append(sender)
            self._ledger.announced(sender, 0)
            return sender

    def leave(self, sender: SenderKey) -> None:
        with self.changed:
            self._senders.remove(sender)

    def waiting(self, sender: SenderKey) -> int:
        """Return the number of rollouts of a sender without credit. The caller holds ``changed``."""
        queued = sum((rollout.header.actor_id, rollout.header.session_id) == sender for rollout in self._queue)
        return queued + self._held.count(sender)

    def put(self, sender: SenderKey, rollout: Rollout) -> None:
        """Add a rollout, numbered by the ledger: a resumed run continues the numbers. The caller holds ``changed``."""
        sequence = self._ledger.expected(sender)
        header = msgspec.structs.replace(
            rollout.header, actor_id=sender.actor_id, session_id=sender.session_id, sequence=sequence
        )
        self._ledger.arrived(sender, sequence)
        self._queue.append(replace(rollout, header=header))
        self.changed.notify_all()

    def count_dropped(self, sender: SenderKey) -> None:
        """Count a rollout that its sender dropped. The caller holds ``changed``."""
        self._ledger.announced(sender, self._ledger.expected(sender) + 1)

    def _reject(self, rollout: Rollout, error: RolloutInvalid) -> None:
        sender, sequence = SenderKey(rollout.header.actor_id, rollout.header.session_id), rollout.header.sequence
        self._ledger.reject(sender, sequence, error)
        self._warnings.warn(sender, f"invalid rollout received {sender} sequence={sequence} error={error}")
        if self.synchronous:
            with self.changed:  # the sender waits for no update with this rollout
                self._held.remove(sender)
                self.changed.notify_all()

    def _check_open(self) -> None:
        if self.closed:
            raise TransportClosed("create a new receiver: this one was closed")

    def _check(self, rollout: Rollout) -> None:
        if rollout.header.run_id != self._run_id:
            raise RolloutInvalid(f"expected rollouts of run {self._run_id!r}, found run {rollout.header.run_id!r}")
        self._layout.check(rollout)


class InProcessSender:
    """``RolloutSender`` of ``receiver``: a new session of ``actor_id``."""

    def __init__(self, receiver: InProcessReceiver, actor_id: str, window: int = 1) -> None:
        self._receiver = receiver
        self._window = window
        self._key = receiver.join(actor_id)
        self._closed = False
        self.sent = 0
        self.lost = 0

    @property
    def learner_alive(self) -> bool:
        return not self._receiver.closed

    @property
    def stop_requested(self) -> bool:
        return self._receiver.stopping

    @property
    def wanted_version(self) -> int | None:
        return self._receiver.wanted_version

    def wait_for_room(self, timeout_s: float) -> bool:
        self._check_open()
        with self._receiver.changed:
            self._receiver.changed.wait_for(self._would_not_block, timeout_s)
            return self._would_not_block() and not self.stop_requested

    def send(self, rollout: Rollout) -> bool:
        """See ``RolloutSender``. It blocks until another thread receives."""
        self._check_open()
        with self._receiver.changed:
            self._receiver.changed.wait_for(self._would_not_block)
            self.sent += 1
            if self.stop_requested or not self.learner_alive:
                self.lost += 1
                self._receiver.count_dropped(self._key)
                return False
            self._receiver.put(self._key, rollout)
            return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._receiver.leave(self._key)

    def _would_not_block(self) -> bool:
        waiting = self._receiver.waiting(self._key)
        return waiting < self._window or self.stop_requested or not self.learner_alive

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("create a new sender to send more rollouts: this one was closed")
