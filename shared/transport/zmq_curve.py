"""CURVE on ZeroMQ sockets: encryption, who may connect, and a word in the log about who may not."""

import contextlib
import os
import socket as sockets
import threading
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from shared.errors import ConfigurationError
from shared.transport.addresses import needs_keys
from shared.transport.rate_limited_warnings import RateLimitedWarnings
from shared.transport.transport_keys import ACTOR_KEY_NAME, ActorKeys, LearnerKeys

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_DOMAIN = b"rollouts"
_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def check_keys(address: str, keys: LearnerKeys | ActorKeys | None) -> None:
    """Raise ConfigurationError where rollouts would leave this machine in the clear."""
    if keys is None and needs_keys(address):
        raise ConfigurationError(
            f"{address} is not on this machine, and rollouts leave it only encrypted: the actor needs the key that the "
            f"learner made, {ACTOR_KEY_NAME} in the directory of its run (--transport-key FILE)"
        )


class ActorDoor:
    """The actor's side: proves who it is, and knows why it was not let in."""

    def __init__(self, socket: "zmq.Socket[bytes]", keys: ActorKeys) -> None:
        """Call before ``socket`` connects."""
        socket.curve_serverkey = bytes.fromhex(keys.learner_public_key)
        socket.curve_publickey = bytes.fromhex(keys.public_key)
        socket.curve_secretkey = bytes.fromhex(keys.secret_key)
        self._monitor = socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def refusal(self) -> str:
        """Why the last connection came to nothing, or "" where it did not."""
        event: int | None = None
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
        if event is None or event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return ""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f": it does not take this actor's key; give it the {ACTOR_KEY_NAME} of the learner's run"
        return f": whoever answers there has not the learner's key; is this the {ACTOR_KEY_NAME} of that run?"


class LearnerDoor:
    """The learner's side: lets in whoever has the run's key, and logs who has not, on a thread of its own."""

    def __init__(self, context: "zmq.Context[Any]", socket: "zmq.Socket[bytes]", keys: LearnerKeys) -> None:
        """Call before ``socket`` binds."""
        self._socket = socket
        self._actor_key = bytes.fromhex(keys.actor_public_key)
        self._complaints = RateLimitedWarnings()
        self._last_peer = "an unknown host"
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP_ADDRESS)
        socket.curve_server = True
        socket.curve_secretkey = bytes.fromhex(keys.secret_key)
        socket.zap_domain = _ZAP_DOMAIN
        events = _FAILURES | zmq.EVENT_ACCEPTED | zmq.EVENT_MONITOR_STOPPED
        self._monitor = socket.get_monitor_socket(events)
        self._thread = threading.Thread(target=self._keep, name="rollout-door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Call it on the socket's own thread, before that closes."""
        self._socket.disable_monitor()  # the thread hears of it, and ends
        self._thread.join()

    def _keep(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        with self._zap, self._monitor:
            while True:
                for ready, _ in poller.poll():
                    frames = ready.recv_multipart()
                    if ready is self._zap:
                        self._zap.send_multipart(self._judge(frames))
                    elif not self._note(frames):
                        return

    def _judge(self, frames: list[bytes]) -> list[bytes]:
        """The answer to a request of ZeroMQ's authentication protocol (rfc.zeromq.org/spec/27)."""
        version, request, _, address, _, mechanism, *credentials = frames
        if mechanism == b"CURVE" and credentials == [self._actor_key]:
            return [version, request, b"200", b"OK", b"actor", b""]
        key = credentials[0].hex() if credentials else "none"
        self._complain(address.decode(errors="replace"), f"its key {key} is not that of this run's actors")
        return [version, request, b"400", b"not a key of this run", b"", b""]

    def _note(self, frames: list[bytes]) -> bool:
        """Take note of an event; False where it was the last."""
        message = parse_monitor_message(frames)
        event, value = message["event"], message["value"]
        if event == zmq.EVENT_ACCEPTED:
            self._last_peer = _peer(value)
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            self._complain(self._last_peer, "it has no key, or one for another learner")
        return bool(event != zmq.EVENT_MONITOR_STOPPED)

    def _complain(self, peer: str, what: str) -> None:
        self._complaints.add((peer, what), f"refused a connection from {peer}: {what}")


def _peer(descriptor: int) -> str:
    """Who is at the other end, for the log. The connection may be gone by now: then it is unknown."""
    with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as connection:
        return str(connection.getpeername()[0])
    return "an unknown host"
