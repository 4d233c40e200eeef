"""The end of an actor over ZeroMQ."""

import math
import secrets
import time
from dataclasses import replace

import msgspec
import zmq
from loguru import logger

from shared.errors import ConfigurationError, TransportClosed, TransportError
from shared.rollouts.rollout import Rollout
from shared.rollouts.rollout_codec import encode_rollout
from shared.transport import messages
from shared.transport.addresses import LocalSocket, is_local
from shared.transport.messages import Bye, FromActor, Hello, Refused, Sending
from shared.transport.peer_authentication import ActorAuthentication
from shared.transport.sender_flow import SenderFlow
from shared.transport.transport_keys import ActorKeys
from shared.transport.zmq_sockets import FLUSH_MS, configure, milliseconds, ready

_RECONNECT_MS = (20, 500)


class ZmqSender:
    """``RolloutSender`` over ZeroMQ, for one thread: the one that acts. It reconnects to a restarted learner.

    ``window`` rollouts may be in flight. After ``learner_timeout_s`` of silence the learner is taken to be down. Raises
    ConfigurationError if ``address`` is invalid, or a socket that other users could replace.
    """

    def __init__(
        self,
        address: str,
        run_id: str,
        actor_id: str,
        *,
        keys: ActorKeys,
        window: int = 1,
        learner_timeout_s: float = 5.0,
    ) -> None:
        self._address = address
        self._name = messages.Sender(run_id, actor_id, secrets.token_hex(16))
        self._session_id = self._name.key.session_id
        self._local = LocalSocket(address) if is_local(address) else None
        self._flow = SenderFlow(window, learner_timeout_s, time.monotonic())
        self._was_silent = False
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # Without IMMEDIATE a message without a connection would be accepted, and sent stale to a later learner.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
        configure(self._socket, address, messages.MAX_MESSAGE_BYTES, learner_timeout_s)
        self._authentication = ActorAuthentication(self._socket, address, keys)
        try:
            self._socket.connect(address if self._local is None else self._local.endpoint)
        except zmq.ZMQError as error:
            self._end_context(linger_ms=0)
            raise ConfigurationError(f"cannot send rollouts to {address!r}: {error}") from error

    @property
    def sent(self) -> int:
        return self._flow.sent

    @property
    def lost(self) -> int:
        return self._flow.lost

    @property
    def learner_alive(self) -> bool:
        self._pump()
        return self._flow.learner_alive(time.monotonic())

    @property
    def stop_requested(self) -> bool:
        self._pump()
        return self._flow.stop

    @property
    def wanted_version(self) -> int | None:
        return self._flow.wanted_version

    def wait_for_room(self, timeout_s: float) -> bool:
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
        """See ``RolloutSender``. Raises ConfigurationError too, if the rollout is larger than receivers accept."""
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
        header = msgspec.structs.replace(rollout.header, sequence=sequence, session_id=self._session_id)
        frames = [messages.encode(Sending(self._name, sequence)), *encode_rollout(replace(rollout, header=header))]
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._flow.disconnected()
            return False
        self._flow.count_sent()
        return True

    def close(self) -> None:
        if self._socket.closed:
            return
        self._pump()
        if self._flow.sent and self._flow.learner_alive(time.monotonic()):
            self._socket.poll(FLUSH_MS, zmq.POLLOUT)
        self._try_send(Bye(self._name, self._flow.sent))
        self._end_context(linger_ms=FLUSH_MS)

    def _end_context(self, *, linger_ms: int) -> None:
        self._context.destroy(linger=linger_ms)
        if self._local is not None:
            self._local.close()

    def _check_open(self) -> None:
        if self._socket.closed:
            raise TransportClosed("create a new sender to send more rollouts: this one was closed")

    def _pump(self) -> None:
        """Process messages of the learner, and greet it if that is due. Never blocks."""
        if self._socket.closed:
            return
        while ready(self._socket) & zmq.POLLIN:
            self._process(self._socket.recv_multipart(zmq.NOBLOCK))
        now_s = time.monotonic()
        self._log_silence(now_s)
        if not ready(self._socket) & zmq.POLLOUT:
            self._flow.disconnected()
        elif self._flow.hello_due(now_s) and self._try_send(Hello(self._name, self._flow.sent)):
            self._flow.greeted(now_s)

    def _process(self, frames: list[bytes]) -> None:
        refused_before = self._flow.refusal
        try:
            message = messages.decode_from_learner(frames[0])
        except TransportError as error:
            logger.warning("invalid message ignored address={} error={!r}", self._address, str(error))
            return
        self._flow.process(message, time.monotonic())
        if isinstance(message, Refused) and message.reason != refused_before:
            logger.error("learner refuses rollouts address={} reason={}", self._address, message.reason)

    def _log_silence(self, now_s: float) -> None:
        silent = self._flow.refusal is None and not self._flow.learner_alive(now_s)
        reason = self._authentication.refusal() if silent else ""
        if silent and not self._was_silent:
            logger.warning(
                "learner does not answer, rollouts are lost meanwhile address={} silence_s={:.1f} reason={!r}",
                self._address,
                self._flow.silence_s(now_s),
                reason,
            )
        elif self._was_silent and not silent and self._flow.refusal is None:
            logger.info("learner answers again address={} lost={}", self._address, self._flow.lost)
        self._was_silent = silent

    def _wait(self, at_most_s: float) -> None:
        now_s = time.monotonic()
        events = zmq.POLLIN | zmq.POLLOUT if self._flow.hello_due(now_s) else zmq.POLLIN
        self._socket.poll(milliseconds(min(at_most_s, self._flow.wait_s(now_s))), events)

    def _try_send(self, message: FromActor) -> bool:
        try:
            self._socket.send(messages.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
