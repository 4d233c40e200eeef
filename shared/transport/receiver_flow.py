"""What a receiver answers to what it hears: greetings, credit, refusals, and who is still there. No socket in here.

A *route* is what the socket calls a connection. A sender that reconnects has a new one; every message says whose it is.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from loguru import logger

from shared.errors import RolloutInvalid
from shared.rollout import Rollout, RolloutLayout
from shared.rollout_codec import decode_rollout
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


class ReceiverFlow:
    """Everybody that a receiver knows, and the rollouts that wait to be taken up."""

    def __init__(self, layout: RolloutLayout, run_id: str, ledger: Ledger, heartbeat_s: float) -> None:
        self._layout = layout
        self._run_id = run_id
        self._ledger = ledger
        self._heartbeat_s = heartbeat_s
        self._stopping = False
        self._queue: deque[Arrival] = deque()
        self._queued: defaultdict[SenderKey, deque[int]] = defaultdict(deque)
        self._held: dict[SenderKey, int] = {}
        self._version: int | None = None
        self._routes: dict[SenderKey, bytes] = {}
        self._complaints: defaultdict[str, int] = defaultdict(int)

    @property
    def waiting(self) -> int:
        """How many rollouts wait to be taken up."""
        return len(self._queue)

    @property
    def present(self) -> tuple[SenderKey, ...]:
        """Who is connected and has not said goodbye."""
        return tuple(self._routes)

    def hear(self, route: bytes, frames: Sequence[Any]) -> Reply | None:
        """Take note of a message; what to answer."""
        try:
            message = decode_from_actor(frames[0] if frames else b"")
        except RolloutInvalid as error:
            sender = next((str(key) for key, known in self._routes.items() if known == route), "of unknown name")
            self._complain(sender, f"sent something else than a message: {error}")
            return None
        if reason := self._refusal(message):
            if isinstance(message, Sending):
                self._ledger.count_foreign()
            self._complain(str(message.sender.key), f"is refused: {reason}")
            return Reply(route, Refused(reason))
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

    def take_up(self, *, hold_credit: bool) -> tuple[Arrival, Reply | None]:
        """What has waited longest, and its sender's credit for it, which is best sent before the rollout is decoded.

        With ``hold_credit`` the sender has to wait for ``release``.
        """
        arrival = self._pop()
        if hold_credit:
            self._held.setdefault(arrival.sender, arrival.sequence)
            return arrival, None
        route = self._routes.get(arrival.sender)
        return arrival, None if route is None else Reply(route, self._credit(arrival.sender))

    def release(self, version: int | None) -> list[Reply]:
        """The credit that was held back; what is acted for it is best acted by ``version``, or a newer one."""
        self._version = version
        released, self._held = self._held, {}
        return [Reply(self._routes[sender], self._credit(sender)) for sender in released if sender in self._routes]

    def decode(self, arrival: Arrival) -> Rollout | None:
        """The rollout that arrived, or None where it is invalid."""
        try:
            return self._decode(arrival)
        except RolloutInvalid as error:
            self._ledger.settle(arrival.sender, arrival.sequence, "invalid")
            self._complain(str(arrival.sender), f"sent an invalid rollout {arrival.sequence}: {error}")
            return None

    def heartbeats(self) -> list[Reply]:
        """A sign of life for everyone."""
        return [Reply(route, self._credit(sender)) for sender, route in self._routes.items()]

    def stop(self) -> None:
        """From now on nothing is taken up: what waits and what arrives is lost."""
        self._stopping = True
        self._queue.clear()
        self._queued.clear()
        self._ledger.lose_under_way()

    def stop_requests(self) -> list[Reply]:
        """What to tell everyone until they have said goodbye."""
        return [Reply(route, Stop()) for route in self._routes.values()]

    def gone(self, route: bytes) -> None:
        """Nobody is connected under ``route`` any more."""
        for sender in [key for key, known in self._routes.items() if known == route]:
            logger.info("actor {} is gone", sender)  # said first: whoever then sees it gone finds it in the log
            del self._routes[sender]

    def _refusal(self, message: FromActor) -> str | None:
        if message.sender.run_id != self._run_id:
            return f"expected rollouts of run {self._run_id!r}, found run {message.sender.run_id!r}"
        if isinstance(message, Hello) and message.protocol != PROTOCOL:
            return f"expected transport protocol {PROTOCOL}, found {message.protocol}; run one release on both sides"
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
        if not self._ledger.arrived(arrival.sender, arrival.sequence):
            self._complain(str(arrival.sender), f"sent rollout {arrival.sequence} twice")
        elif self._stopping:
            self._ledger.settle(arrival.sender, arrival.sequence, "lost")
        else:
            self._queue.append(arrival)
            self._queued[arrival.sender].append(arrival.sequence)

    def _pop(self) -> Arrival:
        arrival = self._queue.popleft()
        queued = self._queued[arrival.sender]
        queued.popleft()
        if not queued:
            del self._queued[arrival.sender]
        return arrival

    def _decode(self, arrival: Arrival) -> Rollout:
        rollout = decode_rollout(arrival.frames, self._layout)
        header = rollout.header
        found = (header.run_id, header.actor_id, header.incarnation, header.sequence)
        expected = (self._run_id, *arrival.sender, arrival.sequence)
        if found != expected:
            raise RolloutInvalid(f"expected run, actor, incarnation and sequence {expected}, found {found}")
        return rollout

    def _credit(self, sender: SenderKey) -> Credit:
        return Credit(self._taken(sender), self._version)

    def _taken(self, sender: SenderKey) -> int:
        if sender in self._held:
            return self._held[sender]
        queued = self._queued.get(sender)
        return queued[0] if queued else self._ledger.expected(sender)

    def _complain(self, sender: str, what: str) -> None:
        """Log, but a flood only at every power of two."""
        self._complaints[sender] += 1
        times = self._complaints[sender]
        if times & (times - 1) == 0:
            logger.warning("actor {} {} (complaint {})", sender, what, times)
