"""ZeroMQ sockets of both ends: settings, helpers, and CURVE (encryption, authorization, logs of refused peers).

The learner has a ROUTER, each actor a DEALER, over ipc on one machine and tcp between machines. ``receive`` and
``wait_for_room`` wait in the socket: a rollout or a credit costs no hand-over between threads and no wait for the GIL.
"""

import contextlib
import math
import os
import socket as sockets
import threading
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from shared.errors import ConfigurationError
from shared.transport.addresses import needs_keys
from shared.transport.rollout_ledger import RateLimitedWarnings
from shared.transport.transport_keys import ACTOR_KEY_NAME, ActorKeys, LearnerKeys

FLUSH_MS = 500
_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_DOMAIN = b"rollouts"
_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def check_keys(address: str, keys: LearnerKeys | ActorKeys | None) -> None:
    """Raise ConfigurationError if rollouts would leave this machine unencrypted."""
    if keys is None and needs_keys(address):
        raise ConfigurationError(
            f"give the actor the {ACTOR_KEY_NAME} of the learner's run (--transport-key FILE): rollouts leave this "
            f"machine only encrypted, and {address} is elsewhere"
        )


class ActorCurve:
    """CURVE for an actor: its keys, and the reason of a refused connection."""

    def __init__(self, socket: "zmq.Socket[bytes]", keys: ActorKeys) -> None:
        """Configure ``socket`` before it connects."""
        socket.curve_serverkey = bytes.fromhex(keys.learner_public_key)
        socket.curve_publickey = bytes.fromhex(keys.public_key)
        socket.curve_secretkey = bytes.fromhex(keys.secret_key)
        self._monitor = socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def refusal(self) -> str:
        """Return the reason why the last connection failed, or "" if it did not."""
        event: int | None = None
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
        if event is None or event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return ""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"use the {ACTOR_KEY_NAME} of the learner's run: the learner refuses the key of this actor"
        return f"use the {ACTOR_KEY_NAME} of the learner's run: the peer does not have the key of the learner"


class LearnerCurve:
    """CURVE for the learner: accepts connections with the key of the run, and logs others. It runs one thread."""

    def __init__(self, context: "zmq.Context[Any]", socket: "zmq.Socket[bytes]", keys: LearnerKeys) -> None:
        """Configure ``socket`` before it binds."""
        self._socket = socket
        self._actor_key = bytes.fromhex(keys.actor_public_key)
        self._warnings = RateLimitedWarnings()
        self._last_peer = "an unknown host"
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP_ADDRESS)
        socket.curve_server = True
        socket.curve_secretkey = bytes.fromhex(keys.secret_key)
        socket.zap_domain = _ZAP_DOMAIN
        events = _FAILURES | zmq.EVENT_ACCEPTED | zmq.EVENT_MONITOR_STOPPED
        self._monitor = socket.get_monitor_socket(events)
        self._thread = threading.Thread(target=self._run, name="rollout-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Call it on the thread of the socket, before that is closed."""
        self._socket.disable_monitor()  # the event ends the thread
        self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        with self._zap, self._monitor:
            while True:
                for ready, _ in poller.poll():
                    frames = ready.recv_multipart()
                    if ready is self._zap:
                        self._zap.send_multipart(self._authorize(frames))
                    elif not self._note(frames):
                        return

    def _authorize(self, frames: list[bytes]) -> list[bytes]:
        """Answer a request of the ZeroMQ authentication protocol (rfc.zeromq.org/spec/27)."""
        version, request, _, address, _, mechanism, *credentials = frames
        if mechanism == b"CURVE" and credentials == [self._actor_key]:
            return [version, request, b"200", b"OK", b"actor", b""]
        key = credentials[0].hex() if credentials else "none"
        self._warn(address.decode(errors="replace"), f"key {key} is not that of the actors of this run")
        return [version, request, b"400", b"not a key of this run", b"", b""]

    def _note(self, frames: list[bytes]) -> bool:
        """Handle an event of the socket monitor; return False for the last one."""
        message = parse_monitor_message(frames)
        event, value = message["event"], message["value"]
        if event == zmq.EVENT_ACCEPTED:
            self._last_peer = _peer(value)
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            self._warn(self._last_peer, "no key, or one for another learner")
        return bool(event != zmq.EVENT_MONITOR_STOPPED)

    def _warn(self, peer: str, reason: str) -> None:
        self._warnings.warn((peer, reason), f"connection refused peer={peer} reason={reason!r}")


def _peer(descriptor: int) -> str:
    """Return the address of the peer for the log. It is unknown if the connection is closed already."""
    with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as connection:
        return str(connection.getpeername()[0])
    return "an unknown host"


def configure(socket: "zmq.Socket[Any]", address: str, most_bytes: int, lost_after_s: float) -> None:
    """Limit the frames of ``socket``; on tcp send heartbeats, without which a host that lost power looks alive."""
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.IPV6, "[" in address)
    if address.startswith("tcp:"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, milliseconds(lost_after_s / 2))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, milliseconds(2 * lost_after_s))


def ready(socket: "zmq.Socket[Any]") -> int:
    """Return POLLIN and POLLOUT as far as they would not block: cheaper than a call that raises zmq.Again."""
    return int(socket.getsockopt(zmq.EVENTS))


def milliseconds(seconds: float) -> int:
    """Round up, so that waiting for a fraction of a millisecond is not a busy loop."""
    return max(0, math.ceil(seconds * 1000))
