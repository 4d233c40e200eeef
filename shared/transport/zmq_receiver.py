"""The end of the learner over ZeroMQ."""

import errno
import os
import threading
import time

import zmq
from loguru import logger

from shared.errors import ConfigurationError, TransportClosed
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.rollouts.rollout_codec import MAX_ROLLOUT_BYTES
from shared.transport import messages
from shared.transport.addresses import LocalSocket, is_local
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.peer_authentication import LearnerAuthentication
from shared.transport.receiver_flow import ReceiverFlow, ReceiverOptions, Reply
from shared.transport.transport import RolloutReceiver
from shared.transport.transport_keys import LearnerKeys
from shared.transport.zmq_sockets import FLUSH_MS, configure, milliseconds, ready

_READ_AT_MOST = 256  # messages read at once, so that a flood cannot keep the lock
_RECEIVE_QUEUE = 4  # messages of a connection that wait in the socket; others wait at the sender
_STOP_REPEAT_S = 0.1


class ZmqReceiver(RolloutReceiver):
    """``RolloutReceiver`` over ZeroMQ. ``receive``, ``stop_actors`` and ``close`` belong to one thread.

    A second thread sends heartbeats, greets and reads while an update runs. Memory is bounded by ``ReceiverOptions``:
    ``window`` rollouts of each sender, ``capacity`` over all of them. Rollouts are views of the received messages.

    ``self.address`` has the port that a wildcard became. With a ``journal``, accounts stay exact if this process is
    killed. Raises ConfigurationError if ``address`` cannot be bound.
    """

    def __init__(
        self,
        address: str,
        layout: RolloutLayout,
        run_id: str,
        options: ReceiverOptions | None = None,
        *,
        keys: LearnerKeys,
        journal: ArrivalJournal | None = None,
    ) -> None:
        super().__init__(journal)
        options = options or ReceiverOptions()
        self.synchronous = options.synchronous
        self._flow = ReceiverFlow(layout, run_id, self._ledger, options)
        self._heartbeat_s = options.heartbeat_s
        self._capacity = options.capacity
        self._next_beat_s = 0.0
        self._most_frames = len(layout.arrays(1, 0)) + 3  # the control message, the header, and the small arrays
        self._is_dropping = False
        self._lock = threading.Lock()  # guards the socket and the flow; never held while an update runs
        self._closing = threading.Event()
        self._local = LocalSocket(address) if is_local(address) else None
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        # Without MANDATORY a message for a closed connection would be dropped silently.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.RCVHWM, max(1, min(_RECEIVE_QUEUE, options.capacity)))
        configure(self._socket, address, MAX_ROLLOUT_BYTES, 10 * options.heartbeat_s)
        self._authentication = LearnerAuthentication(self._context, self._socket, address, keys)
        try:
            self.address = self._bind(address)
        except (zmq.ZMQError, OSError) as error:
            self._end_context(linger_ms=0)
            raise ConfigurationError(f"cannot receive rollouts at {address!r}: {error}") from error
        self._beat = threading.Thread(target=self._keep_beating, name="rollout-heartbeat", daemon=True)
        self._beat.start()

    def _bind(self, address: str) -> str:
        """Bind the socket and return the address for senders."""
        if self._local is None:
            self._socket.bind(address)
            return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        if self._local.is_served():
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._socket.bind(self._local.endpoint)  # replaces the socket of a killed learner
        self._local.restrict()
        return address

    @property
    def live_senders(self) -> int:
        return len(self._flow.present)

    def receive(self, timeout_s: float) -> Rollout | None:
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            while True:
                self._check_open()
                self._pump()
                rollout = self._pop()
                now_s = time.monotonic()
                if rollout is not None or now_s >= deadline_s:
                    return rollout
                self._socket.poll(milliseconds(min(deadline_s, self._next_beat_s) - now_s))

    def resume_senders(self, version: int | None) -> None:
        with self._lock:
            self._check_open()
            self._send_all(self._flow.resume(version))

    def stop_actors(self, timeout_s: float) -> None:
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
                    self._send_all(self._flow.stop_requests())
                if not self._flow.present or now_s >= deadline_s:
                    break
                self._socket.poll(milliseconds(min(deadline_s, repeat_at_s) - now_s))
            for sender in self._flow.present:
                logger.warning("actor did not stop {} timeout_s={}", sender, timeout_s)

    def close(self) -> None:
        self._closing.set()
        self._beat.join()
        with self._lock:
            if not self._socket.closed:
                if self._local is not None:
                    self._local.remove()
                self._end_context(linger_ms=FLUSH_MS)

    def _end_context(self, *, linger_ms: int) -> None:
        self._authentication.close()
        self._context.destroy(linger=linger_ms)
        if self._local is not None:
            self._local.close()
        self._ledger.close()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise TransportClosed("create a new receiver: this one was closed")

    def _keep_beating(self) -> None:
        while not self._closing.wait(max(0.0, self._next_beat_s - time.monotonic())):
            with self._lock:  # receive() holds it while it waits, and sends the heartbeats then
                self._pump()

    def _pump(self) -> None:
        """Process messages, and send heartbeats if they are due. Never blocks."""
        for _ in range(_READ_AT_MOST):
            if self._flow.waiting >= self._capacity or not ready(self._socket) & zmq.POLLIN:
                break
            if (message := self._read_message()) is not None:
                self._send(self._flow.process(*message))
        now_s = time.monotonic()
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + self._heartbeat_s
            self._send_all(self._flow.heartbeats())

    def _read_message(self) -> tuple[bytes, list[memoryview]] | None:
        """Return the connection and the frames of a message; None while the rest of one that is too large is dropped.

        Such a message is cut, so that it is accounted for and refused as every other invalid rollout is.
        """
        if self._is_dropping:
            for _ in range(_READ_AT_MOST):
                if not self._socket.recv(zmq.NOBLOCK, copy=False).more:
                    self._is_dropping = False
                    break
            return None
        frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        route, frames, size = frame.bytes, list[memoryview](), 0
        while frame.more and len(frames) <= self._most_frames:
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            size += len(frame)
            frames.append(frame.buffer)
        self._is_dropping = frame.more
        if self._authentication.limits is not None:
            self._authentication.limits.message_read(frame.get(zmq.SRCFD))
        return route, frames if size <= MAX_ROLLOUT_BYTES else frames[:1]

    def _pop(self) -> Rollout | None:
        while self._flow.waiting:
            arrival, credit = self._flow.pop()
            self._send(credit)
            if (rollout := self._flow.decode(arrival)) is not None:
                return rollout
            self._send(self._flow.release(arrival))
        return None

    def _send_all(self, replies: list[Reply]) -> None:
        for reply in replies:
            self._send(reply)

    def _send(self, reply: Reply | None) -> None:
        """Send a reply, or drop it if the queue of the connection is full: important ones are repeated."""
        if reply is None:
            return
        try:
            self._socket.send_multipart([reply.route, messages.encode(reply.message)], zmq.NOBLOCK)
        except zmq.Again:
            pass
        except zmq.ZMQError:
            self._flow.disconnected(reply.route)
