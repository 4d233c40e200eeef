"""Rollouts over ZeroMQ: a ROUTER at the learner, a DEALER at each actor; ipc on one machine, tcp between machines.

What leaves the machine is encrypted, and only who has the run's keys is heard (``zmq_curve``).

Neither end has a thread between the socket and its caller: ``receive`` and ``wait_for_room`` wait in the socket itself,
so a rollout or a credit costs no hand-over and no wait for the interpreter lock. The learner's other thread only does,
now and then, what must go on while an update runs: heartbeats, greetings, reading what has arrived.
"""

import math
import secrets
import threading
import time
from dataclasses import replace
from typing import Any

import msgspec
import zmq
from loguru import logger

from shared.errors import ConfigurationError, TransportClosed, TransportError
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.rollouts.rollout_codec import MAX_FRAME_BYTES, encode_rollout
from shared.transport import messages
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.ledger import AccountedReceiver
from shared.transport.messages import Bye, FromActor, Hello, Refused, Sending
from shared.transport.receiver_flow import ReceiverFlow, ReceiverOptions, Reply
from shared.transport.sender_flow import SenderFlow
from shared.transport.transport_keys import ActorKeys, LearnerKeys
from shared.transport.zmq_curve import ActorDoor, LearnerDoor, check_keys

_FLUSH_MS = 500
_READ_AT_MOST = 256  # messages in one go, so that a flood cannot keep the lock
_RECEIVE_QUEUE = 4  # messages of one connection that wait in the socket; the rest waits at the sender
_STOP_REPEAT_S = 0.1
_RECONNECT_MS = (20, 500)


class ZmqSender:
    """The actor's end (see ``RolloutSender``). It belongs to one thread: the one that acts.

    It finds the learner again by itself when that comes back at the same address.
    """

    def __init__(
        self,
        address: str,
        run_id: str,
        actor_id: str,
        *,
        window: int = 1,
        learner_timeout_s: float = 5.0,
        keys: ActorKeys | None = None,
    ) -> None:
        """Begin to connect; returns at once. Raises ConfigurationError where ``address`` is none, or needs ``keys``."""
        check_keys(address, keys)
        self._address = address
        self._name = messages.Sender(run_id, actor_id, secrets.token_hex(8))
        self._flow = SenderFlow(window, learner_timeout_s, time.monotonic())
        self._believed_away = False
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # Without IMMEDIATE a message for a learner that is not there would be accepted, and sent stale when one comes.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
        if address.startswith("tcp:"):
            _notice_vanished_hosts(self._socket, learner_timeout_s)
        self._socket.setsockopt(zmq.IPV6, "[" in address)
        self._door = None if keys is None else ActorDoor(self._socket, keys)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ConfigurationError(f"cannot send rollouts to {address!r}: {error}") from error

    @property
    def sent(self) -> int:
        """How many rollouts were sent or counted as lost."""
        return self._flow.sent

    @property
    def lost(self) -> int:
        """How many rollouts were dropped here, because nobody took them."""
        return self._flow.lost

    @property
    def learner_alive(self) -> bool:
        """Whether the learner has been heard from within ``learner_timeout_s`` (a new sender assumes so)."""
        self._pump()
        return self._flow.learner_alive(time.monotonic())

    @property
    def stop_requested(self) -> bool:
        """Whether the learner has said that the training is over."""
        self._pump()
        return self._flow.stop

    @property
    def wanted_version(self) -> int | None:
        """The version that the next rollout is best acted by, or a newer one; None where any will do."""
        return self._flow.wanted_version

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until ``send`` would not block. True at once while the learner is away; False on timeout or stop."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._check_open()
            self._pump()
            now_s = time.monotonic()
            if self._flow.stop:
                return False
            if self._flow.has_room or not self._flow.learner_alive(now_s):
                return True
            if now_s >= deadline_s:
                return False
            self._wait(deadline_s - now_s)

    def send(self, rollout: Rollout) -> bool:
        """Number the rollout and hand it over; its buffers must not be written to again. False where it is lost.

        Blocks while the window is full and the learner alive. Raises TransportClosed after ``close``, and
        ConfigurationError where the rollout is larger than any learner takes.
        """
        self._check_open()
        self._pump()
        while True:
            if self._flow.stop or not self._flow.learner_alive(time.monotonic()):
                self._flow.count_lost()
                return False
            if self._flow.has_room and self._hand_over(rollout):
                return True
            self._wait(math.inf)
            self._pump()

    def _hand_over(self, rollout: Rollout) -> bool:
        sequence = self._flow.sent
        header = msgspec.structs.replace(rollout.header, sequence=sequence, session_id=self._name.session_id)
        frames = [messages.encode(Sending(self._name, sequence)), *encode_rollout(replace(rollout, header=header))]
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._flow.disconnected()
            return False
        self._flow.count_sent()
        return True

    def close(self) -> None:
        """Say goodbye with the final count of what was sent, flush for at most half a second. Idempotent."""
        if self._socket.closed:
            return
        self._pump()
        if self._flow.sent and self._flow.learner_alive(time.monotonic()):
            self._socket.poll(_FLUSH_MS, zmq.POLLOUT)
        self._try_send(Bye(self._name, self._flow.sent))
        self._context.destroy(linger=_FLUSH_MS)

    def _check_open(self) -> None:
        if self._socket.closed:
            raise TransportClosed("this sender was closed; make a new one to send more rollouts")

    def _pump(self) -> None:
        """Hear what the learner said, and greet it where that is due. Never blocks."""
        if self._socket.closed:
            return
        while _ready(self._socket) & zmq.POLLIN:
            self._hear(self._socket.recv_multipart(zmq.NOBLOCK))
        now_s = time.monotonic()
        self._note_absence(now_s)
        if not _ready(self._socket) & zmq.POLLOUT:
            self._flow.disconnected()
        elif self._flow.hello_due(now_s) and self._try_send(Hello(self._name, self._flow.sent)):
            self._flow.greeted(now_s)

    def _hear(self, frames: list[bytes]) -> None:
        refused_before = self._flow.refusal
        try:
            message = messages.decode_from_learner(frames[0])
        except TransportError as error:
            logger.warning("ignored what {} said: {}", self._address, error)
            return
        self._flow.hear(message, time.monotonic())
        if isinstance(message, Refused) and message.reason != refused_before:
            logger.error("the learner at {} refuses this actor's rollouts: {}", self._address, message.reason)

    def _note_absence(self, now_s: float) -> None:
        away = self._flow.refusal is None and not self._flow.learner_alive(now_s)
        if away and not self._believed_away:
            logger.warning(
                "no word from the learner at {} for {:.1f} s{}; acting goes on, and rollouts are lost until it is back",
                self._address,
                self._flow.silence_s(now_s),
                "" if self._door is None else self._door.refusal(),
            )
        elif self._believed_away and not away and self._flow.refusal is None:
            logger.info("the learner at {} is back; {} rollouts were lost so far", self._address, self._flow.lost)
        self._believed_away = away

    def _wait(self, at_most_s: float) -> None:
        now_s = time.monotonic()
        events = zmq.POLLIN | zmq.POLLOUT if self._flow.hello_due(now_s) else zmq.POLLIN
        self._socket.poll(_milliseconds(min(at_most_s, self._flow.wait_s(now_s))), events)

    def _try_send(self, message: FromActor) -> bool:
        try:
            self._socket.send(messages.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


class ZmqReceiver(AccountedReceiver):
    """The learner's end (see ``RolloutReceiver``). ``receive``, ``stop_actors`` and ``close`` belong to one thread.

    Memory is bounded by ``ReceiverOptions``: ``window`` rollouts of each sender, ``capacity`` over all of them.
    Rollouts are views of the messages that they came in, which live as long as they.
    """

    def __init__(
        self,
        address: str,
        layout: RolloutLayout,
        run_id: str,
        options: ReceiverOptions | None = None,
        *,
        keys: LearnerKeys | None = None,
        journal: ArrivalJournal | None = None,
    ) -> None:
        """Bind and begin to answer. Raises ConfigurationError where ``address`` cannot be had, or needs ``keys``.

        ``self.address`` is where actors can connect: ``address``, with the port that a wildcard became. With a
        ``journal``, what it hears is counted even if it is killed.
        """
        check_keys(address, keys)
        super().__init__(journal)
        options = options or ReceiverOptions()
        self.synchronous = options.synchronous
        self._flow = ReceiverFlow(layout, run_id, self._ledger, options)
        self._heartbeat_s = options.heartbeat_s
        self._capacity = options.capacity
        self._next_beat_s = 0.0
        self._lock = threading.Lock()  # guards the socket and the flow; never held while an update runs
        self._closing = threading.Event()
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        # Without MANDATORY a message for an actor that is gone would vanish without a word.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.setsockopt(zmq.RCVHWM, max(1, min(_RECEIVE_QUEUE, options.capacity)))
        if address.startswith("tcp:"):
            _notice_vanished_hosts(self._socket, 10 * options.heartbeat_s)
        self._socket.setsockopt(zmq.IPV6, "[" in address)
        self._door = None if keys is None else LearnerDoor(self._context, self._socket, keys)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._end_context(linger_ms=0)
            raise ConfigurationError(f"cannot receive rollouts at {address!r}: {error}") from error
        self.address = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._beat = threading.Thread(target=self._keep_beating, name="rollout-heartbeat", daemon=True)
        self._beat.start()

    @property
    def live_senders(self) -> int:
        """How many senders are connected and have not said goodbye."""
        return len(self._flow.present)

    def receive(self, timeout_s: float) -> Rollout | None:
        """Return the next valid rollout, or None when ``timeout_s`` passed.

        Its sender then has room for another: at once, or with a synchronous receiver after ``resume_senders``.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            while True:
                self._check_open()
                self._pump()
                rollout = self._take_up()
                now_s = time.monotonic()
                if rollout is not None or now_s >= deadline_s:
                    return rollout
                self._socket.poll(_milliseconds(min(deadline_s, self._next_beat_s) - now_s))

    def resume_senders(self, version: int | None) -> None:
        """Let waiting senders send again, rollouts acted by ``version`` or a newer one (None: by any version)."""
        with self._lock:
            self._check_open()
            self._tell(self._flow.resume(version))

    def stop_actors(self, timeout_s: float) -> None:
        """Ask every sender to stop and wait for their final counts; what is still under way is lost.

        Returns as soon as all have said goodbye or are gone, after ``timeout_s`` at the latest.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._check_open()
            self._flow.stop()
            repeat_at_s = 0.0
            while True:
                self._pump()
                now_s = time.monotonic()
                if now_s >= repeat_at_s:
                    repeat_at_s = now_s + _STOP_REPEAT_S
                    self._tell(self._flow.stop_requests())
                if not self._flow.present or now_s >= deadline_s:
                    break
                self._socket.poll(_milliseconds(min(deadline_s, repeat_at_s) - now_s))
            for sender in self._flow.present:
                logger.warning("actor {} was asked to stop and did not say goodbye within {} s", sender, timeout_s)

    def close(self) -> None:
        """Release the address and the thread. Idempotent."""
        self._closing.set()
        self._beat.join()
        with self._lock:
            if not self._socket.closed:
                self._end_context(linger_ms=_FLUSH_MS)

    def _end_context(self, *, linger_ms: int) -> None:
        if self._door is not None:
            self._door.close()
        self._context.destroy(linger=linger_ms)
        self._ledger.close()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise TransportClosed("this receiver was closed")

    def _keep_beating(self) -> None:
        while not self._closing.wait(max(0.0, self._next_beat_s - time.monotonic())):
            with self._lock:  # whoever waits in receive() holds it, and beats meanwhile
                self._pump()

    def _pump(self) -> None:
        """Read what has arrived, and beat where that is due. Never blocks."""
        for _ in range(_READ_AT_MOST):
            if self._flow.waiting >= self._capacity or not _ready(self._socket) & zmq.POLLIN:
                break
            route, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            self._answer(self._flow.hear(route.bytes, [frame.buffer for frame in frames]))
        now_s = time.monotonic()
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + self._heartbeat_s
            self._tell(self._flow.heartbeats())

    def _take_up(self) -> Rollout | None:
        while self._flow.waiting:
            arrival, credit = self._flow.take_up()
            self._answer(credit)
            if (rollout := self._flow.decode(arrival)) is not None:
                return rollout
        return None

    def _tell(self, replies: list[Reply]) -> None:
        for reply in replies:
            self._answer(reply)

    def _answer(self, reply: Reply | None) -> None:
        """What finds its queue full is dropped: whatever matters is repeated."""
        if reply is None:
            return
        try:
            self._socket.send_multipart([reply.route, messages.encode(reply.message)], zmq.NOBLOCK)
        except zmq.Again:
            pass
        except zmq.ZMQError:
            self._flow.gone(reply.route)


def _notice_vanished_hosts(socket: "zmq.Socket[Any]", timeout_s: float) -> None:
    """A host that lost power sends no farewell: without these its connections look alive for a quarter of an hour."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, _milliseconds(timeout_s / 2))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _milliseconds(2 * timeout_s))


def _ready(socket: "zmq.Socket[Any]") -> int:
    """Which of POLLIN and POLLOUT would not block: cheaper than trying and being told zmq.Again."""
    return int(socket.getsockopt(zmq.EVENTS))


def _milliseconds(seconds: float) -> int:
    """Rounded up, so that waiting for a fraction of a millisecond is no busy loop."""
    return max(0, math.ceil(seconds * 1000))
