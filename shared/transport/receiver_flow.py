"""What a receiver answers to what it hears: greetings, credit, refusals, and who is still there. No socket in here.

A *route* is what the socket calls a connection. A sender that reconnects has a new one; every message says whose it is.

Whoever sends more than its window, in spite of its credit, has what is too much refused as it comes; and senders are
taken up in turn, one rollout of each. So a flood costs the receiver no memory, and the honest only their turn.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from loguru import logger

from shared.errors import RolloutInvalid
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.rollouts.rollout_codec import decode_rollout
from shared.transport.ledger import Ledger, SenderKey
from shared.transport.messages import (
    PROTOCOL,
    Bye,
    Credit,
    FromActor,
    FromLearner,
    Hello,
    Refused,
    Sending,
    Stop,
    Welcome,
    decode_from_actor,
)
from shared.transport.rate_limited_warnings import RateLimitedWarnings

# More than any actor can act between two of its messages: such a count is a mistake, or a lie about everybody's sum.
_MOST_UNHEARD = 2**32


class Reply(NamedTuple):
    """A message to one sender."""

    route: bytes
    message: FromLearner


@dataclass(frozen=True, slots=True)
class Arrival:
    """A rollout that was not taken up yet: undecoded, so that reading it costs the update nothing."""

    sender: SenderKey
    sequence: int
    frames: Sequence[Any]


@dataclass(frozen=True)
class ReceiverOptions:
    """Settings of a receiver, fixed for its lifetime.

    Attributes:
        heartbeat_s: period in seconds of the heartbeats to every sender.
        capacity: rollouts that wait in the receiver, over all senders; the rest waits in the sockets' bounded queues.
        window: rollouts that wait in the receiver for each sender.
        synchronous: a sender whose rollout was received waits for ``resume_senders`` before it has room for another.
    """

    heartbeat_s: float = 0.5
    capacity: int = 256
    window: int = 16
    synchronous: bool = False


class ReceiverFlow:
    """The senders that a receiver knows, and the rollouts that wait to be taken up: at most ``window`` of each."""

    def __init__(self, layout: RolloutLayout, run_id: str, ledger: Ledger, options: ReceiverOptions) -> None:
        self._window = options.window
        self._layout = layout
        self._run_id = run_id
        self._ledger = ledger
        self._heartbeat_s = options.heartbeat_s
        self._synchronous = options.synchronous
        self._stopping = False
        self._queues: dict[SenderKey, deque[Arrival]] = {}  # in the order of their turns; none is empty
        self._waiting = 0
        self._held: dict[SenderKey, int] = {}
        self._version: int | None = None
        self._routes: dict[SenderKey, bytes] = {}
        self._names: dict[bytes, SenderKey] = {}
        self._complaints = RateLimitedWarnings()

    @property
    def waiting(self) -> int:
        """How many rollouts wait to be taken up."""
        return self._waiting

    @property
    def present(self) -> tuple[SenderKey, ...]:
        """Who is connected and has not said goodbye."""
        return tuple(self._routes)

    def hear(self, route: bytes, frames: Sequence[Any]) -> Reply | None:
        """Take note of a message; what to answer."""
        try:
            message = decode_from_actor(frames[0] if frames else b"")
        except RolloutInvalid as error:
            name = str(self._names.get(route, "of unknown name"))
            self._complain(route, name, f"sent something else than a message: {error}")
            return None
        if reason := self._refusal(message, route):
            if isinstance(message, Sending):
                self._ledger.count_foreign()
            self._complain(route, message.sender.key, f"is refused: {reason}")
            return Reply(route, Refused(reason))
        self._names[route] = message.sender.key
        match message:
            case Hello():
                return self._greet(message, route)
            case Sending():
                self._routes[message.sender.key] = route
                self._note(Arrival(message.sender.key, message.sequence, frames[1:]))
            case Bye():
                self._ledger.announced(message.sender.key, message.sent)
                self._routes.pop(message.sender.key, None)
                logger.info("actor {} said goodbye after {} rollouts", message.sender.key, message.sent)
        return None

    def take_up(self) -> tuple[Arrival, Reply | None]:
        """Return the oldest rollout of the next sender, and the credit to send before the rollout is decoded.

        A synchronous receiver keeps the credit until ``resume``.
        """
        arrival = self._pop()
        if self._synchronous:
            self._held.setdefault(arrival.sender, arrival.sequence)
            return arrival, None
        route = self._routes.get(arrival.sender)
        return arrival, None if route is None else Reply(route, self._credit(arrival.sender))

    def resume(self, version: int | None) -> list[Reply]:
        """Return the credit of all waiting senders, for rollouts acted by ``version`` or a newer one."""
        self._version = version
        waiting, self._held = self._held, {}
        return [Reply(self._routes[sender], self._credit(sender)) for sender in waiting if sender in self._routes]

    def decode(self, arrival: Arrival) -> Rollout | None:
        """The rollout that arrived, or None where it is invalid."""
        try:
            return self._decode(arrival)
        except RolloutInvalid as error:
            self._ledger.settle(arrival.sender, arrival.sequence, "invalid")
            self._complain_of(arrival.sender, f"sent an invalid rollout {arrival.sequence}: {error}")
            return None

    def heartbeats(self) -> list[Reply]:
        """A sign of life for everyone; sent also to those who said goodbye, to learn that they are ``gone``."""
        return [Reply(route, self._credit(sender)) for route, sender in self._names.items()]

    def stop(self) -> None:
        """From now on nothing is taken up: what waits and what arrives is lost."""
        self._stopping = True
        self._queues.clear()
        self._waiting = 0
        self._ledger.lose_under_way()

    def stop_requests(self) -> list[Reply]:
        """What to tell everyone until they have said goodbye."""
        return [Reply(route, Stop()) for route in self._routes.values()]

    def gone(self, route: bytes) -> None:
        """Nobody is connected under ``route`` any more."""
        self._names.pop(route, None)
        for sender in [key for key, known in self._routes.items() if known == route]:
            logger.info("actor {} is gone", sender)  # said first: whoever then sees it gone finds it in the log
            del self._routes[sender]

    def _refusal(self, message: FromActor, route: bytes) -> str | None:
        sender = message.sender.key
        if message.sender.run_id != self._run_id:
            return f"expected rollouts of run {self._run_id!r}, found run {message.sender.run_id!r}"
        if isinstance(message, Hello) and message.protocol != PROTOCOL:
            return f"expected transport protocol {PROTOCOL}, found {message.protocol}; run one release on both sides"
        if (known := self._names.get(route, sender)) != sender:
            return f"one connection has one name: expected {known}, found {sender}"
        count = message.sequence if isinstance(message, Sending) else message.sent
        if count - self._ledger.expected(sender) > _MOST_UNHEARD:
            return f"expected a count of rollouts near {self._ledger.expected(sender)}, found {count}"
        return None

    def _greet(self, hello: Hello, route: bytes) -> Reply:
        sender = hello.sender.key
        if sender not in self._routes:
            logger.info("actor {} is here, {} rollouts sent so far", sender, hello.sent)
        self._routes[sender] = route
        self._ledger.announced(sender, hello.sent)
        if self._stopping:
            return Reply(route, Stop())
        return Reply(route, Welcome(hello.sent, self._taken(sender), self._heartbeat_s))

    def _note(self, arrival: Arrival) -> None:
        sender, sequence = arrival.sender, arrival.sequence
        too_many = sequence - self._taken(sender) >= self._window
        if not self._ledger.arrived(sender, sequence):
            self._complain_of(sender, f"sent rollout {sequence} twice")
        elif self._stopping:
            self._ledger.settle(sender, sequence, "lost")
        elif too_many:
            self._ledger.settle(sender, sequence, "invalid")
            self._complain_of(sender, f"ignores its credit: rollout {sequence} is beyond its window of {self._window}")
        else:
            self._queues.setdefault(sender, deque()).append(arrival)
            self._waiting += 1

    def _pop(self) -> Arrival:
        sender = next(iter(self._queues))
        queue = self._queues.pop(sender)
        arrival = queue.popleft()
        self._waiting -= 1
        if queue:
            self._queues[sender] = queue  # behind all others
        return arrival

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

    def _complain_of(self, sender: SenderKey, what: str) -> None:
        self._complain(self._routes.get(sender, b""), sender, what)

    def _complain(self, route: bytes, sender: SenderKey | str, what: str) -> None:
        """Counted by connection: one of them can have any number of names."""
        self._complaints.add(route, f"actor {sender} {what}")
