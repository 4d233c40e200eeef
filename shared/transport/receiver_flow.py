"""Decisions of a receiver: greetings, credit, refusals, and the senders that are present. It uses no socket.

A *route* identifies a connection of the socket; a sender has a new one after it reconnects. Rollouts beyond the window
of a sender are refused, and senders take turns: a flood costs neither memory nor the share of other senders.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from loguru import logger

from shared.errors import RolloutInvalid
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.rollouts.rollout_codec import decode_rollout
from shared.transport import messages
from shared.transport.messages import Bye, Credit, FromActor, FromLearner, Hello, Refused, Sending, Stop, Welcome
from shared.transport.rollout_ledger import Ledger, RateLimitedWarnings, SenderKey

# More rollouts than an actor can act between two of its messages: such a count is wrong and would distort the sums.
_MOST_SKIPPED = 2**32
_MOST_SENDERS = 4096


class Reply(NamedTuple):
    route: bytes
    message: FromLearner


@dataclass(frozen=True, slots=True)
class Arrival:
    """A waiting rollout. It is decoded when it is received, so that reading it does not slow an update."""

    sender: SenderKey
    sequence: int
    frames: Sequence[Any]


@dataclass(frozen=True)
class ReceiverOptions:
    """Settings of a receiver, fixed for its lifetime.

    Attributes:
        heartbeat_s: period in seconds of the heartbeats to every sender.
        capacity: rollouts that wait in the receiver, over all senders; others wait in the bounded queues of sockets.
        window: rollouts that wait in the receiver for each sender.
        synchronous: a sender whose rollout was received waits for ``resume_senders`` before it has room for another.
    """

    heartbeat_s: float = 0.5
    capacity: int = 256
    window: int = 16
    synchronous: bool = False


class ReceiverFlow:
    """The senders that a receiver knows, and its ``waiting`` rollouts: at most ``window`` of each sender."""

    def __init__(self, layout: RolloutLayout, run_id: str, ledger: Ledger, options: ReceiverOptions) -> None:
        self._window = options.window
        self._layout = layout
        self._run_id = run_id
        self._ledger = ledger
        self._heartbeat_s = options.heartbeat_s
        self._synchronous = options.synchronous
        self._stopping = False
        self._queues: dict[SenderKey, deque[Arrival]] = {}  # in the order of turns; none is empty
        self.waiting = 0
        self._held: dict[SenderKey, int] = {}
        self._version: int | None = None
        self._routes: dict[SenderKey, bytes] = {}
        self._names: dict[bytes, SenderKey] = {}
        self._warnings = RateLimitedWarnings()

    @property
    def present(self) -> tuple[SenderKey, ...]:
        """Senders that are connected and have not left."""
        return tuple(self._routes)

    def process(self, route: bytes, frames: Sequence[Any]) -> Reply | None:
        try:
            message = messages.decode_from_actor(frames[0] if frames else b"")
        except RolloutInvalid as error:
            sender = self._names.get(route, "actor=unknown")
            self._warnings.warn(route, f"invalid message received {sender} error={error}")
            return None
        sender = message.sender.key
        if reason := self._refusal(message, sender, route):
            if isinstance(message, Sending):
                self._ledger.count_foreign()
            self._warnings.warn(route, f"sender refused {sender} reason={reason}")
            return Reply(route, Refused(reason))
        self._names[route] = sender
        reply = None
        match message:
            case Hello():
                reply = self._greet(message, sender, route)
            case Sending():
                self._routes[sender] = route
                self._add(Arrival(sender, message.sequence, frames[1:]))
            case Bye():
                self._ledger.announced(sender, message.sent)
                self._routes.pop(sender, None)
                logger.info("actor left {} sent={}", sender, message.sent)
        self._ledger.forget_oldest(self._routes)
        return reply

    def pop(self) -> tuple[Arrival, Reply | None]:
        """Return the oldest rollout of the next sender, and the credit to send first, unless synchronous."""
        sender = next(iter(self._queues))
        queue = self._queues.pop(sender)
        arrival = queue.popleft()
        self.waiting -= 1
        if queue:
            self._queues[sender] = queue  # behind all other senders
        if self._synchronous:
            self._held.setdefault(sender, arrival.sequence)
            return arrival, None
        route = self._routes.get(sender)
        return arrival, None if route is None else Reply(route, self._credit(sender))

    def resume(self, version: int | None) -> list[Reply]:
        """Return the credit of all waiting senders, for rollouts acted by ``version`` or a newer one."""
        self._version = version
        waiting, self._held = self._held, {}
        return [Reply(self._routes[sender], self._credit(sender)) for sender in waiting if sender in self._routes]

    def decode(self, arrival: Arrival) -> Rollout | None:
        sender, sequence = arrival.sender, arrival.sequence
        try:
            rollout = self._decode(arrival)
        except RolloutInvalid as error:
            self._ledger.reject(sender, sequence, error)
            self._warn(sender, f"invalid rollout received {sender} sequence={sequence} error={error}")
            return None
        self._ledger.accept(sender)
        return rollout

    def release(self, arrival: Arrival) -> Reply | None:
        """Return the credit of a sender whose rollout was rejected; it waits for no update with that rollout."""
        sender = arrival.sender
        if self._held.get(sender) != arrival.sequence:  # asynchronous, or it waits for the update of another rollout
            return None
        del self._held[sender]
        route = self._routes.get(sender)
        return None if route is None else Reply(route, self._credit(sender))

    def heartbeats(self) -> list[Reply]:
        """Return heartbeats for all connections, also of senders that left, to find closed ones."""
        return [Reply(route, self._credit(sender)) for route, sender in self._names.items()]

    def stop(self) -> None:
        """Count waiting rollouts, and those that arrive from now on, as lost."""
        self._stopping = True
        self._queues.clear()
        self.waiting = 0
        self._ledger.lose_in_flight()

    def stop_requests(self) -> list[Reply]:
        """Return the requests to send repeatedly until all senders have left."""
        return [Reply(route, Stop()) for route in self._routes.values()]

    def disconnected(self, route: bytes) -> None:
        self._names.pop(route, None)
        for sender in [key for key, known in self._routes.items() if known == route]:
            logger.info("actor connection lost {}", sender)  # before the change, which other threads see
            del self._routes[sender]

    def _refusal(self, message: FromActor, sender: SenderKey, route: bytes) -> str | None:
        if message.sender.run_id != self._run_id:
            return f"expected rollouts of run {self._run_id!r}, found run {message.sender.run_id!r}"
        if isinstance(message, Hello) and message.protocol != messages.PROTOCOL:
            return (
                f"run one release on both sides: expected transport protocol {messages.PROTOCOL}, "
                f"found {message.protocol}"
            )
        if (known := self._names.get(route, sender)) != sender:
            return f"one connection has one sender: expected {known}, found {sender}"
        if route not in self._names and len(self._names) >= _MOST_SENDERS:
            return f"end other actors first: {_MOST_SENDERS} are connected to the learner"
        count = message.sequence if isinstance(message, Sending) else message.sent
        if count - self._ledger.expected(sender) > _MOST_SKIPPED:
            return f"expected a count of rollouts near {self._ledger.expected(sender)}, found {count}"
        return None

    def _greet(self, hello: Hello, sender: SenderKey, route: bytes) -> Reply:
        if sender not in self._routes:
            logger.info("actor connected {} sent={}", sender, hello.sent)
        self._routes[sender] = route
        self._ledger.announced(sender, hello.sent)
        if self._stopping:
            return Reply(route, Stop())
        return Reply(route, Welcome(hello.sent, self._taken(sender), self._heartbeat_s))

    def _add(self, arrival: Arrival) -> None:
        sender, sequence = arrival.sender, arrival.sequence
        too_many = sequence - self._taken(sender) >= self._window
        if not self._ledger.arrived(sender, sequence):
            self._warn(sender, f"duplicate rollout ignored {sender} sequence={sequence}")
        elif self._stopping:
            self._ledger.settle(sender, sequence, "lost")
        elif too_many:
            self._ledger.settle(sender, sequence, "invalid")
            self._warn(sender, f"rollout beyond its window refused {sender} sequence={sequence} window={self._window}")
        else:
            self._queues.setdefault(sender, deque()).append(arrival)
            self.waiting += 1

    def _decode(self, arrival: Arrival) -> Rollout:
        rollout = decode_rollout(arrival.frames, self._layout)
        header = rollout.header
        found = (header.run_id, header.actor_id, header.session_id, header.sequence)
        expected = (self._run_id, *arrival.sender, arrival.sequence)
        if found != expected:
            raise RolloutInvalid(f"expected run, actor, session_id and sequence {expected}, found {found}")
        return rollout

    def _credit(self, sender: SenderKey) -> Credit:
        return Credit(self._taken(sender), self._version)

    def _taken(self, sender: SenderKey) -> int:
        if sender in self._held:
            return self._held[sender]
        queue = self._queues.get(sender)
        return queue[0].sequence if queue else self._ledger.expected(sender)

    def _warn(self, sender: SenderKey, message: str) -> None:
        """Warn at the rate of the connection, which may use any number of names."""
        self._warnings.warn(self._routes.get(sender, b""), message)
