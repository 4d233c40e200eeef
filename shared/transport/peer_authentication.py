"""Authentication of both ends with the keys of the run, by ZeroMQ: CURVE over tcp, a password over a local socket.

Nothing is received before it: a peer without the keys of the run can only fail. Over tcp, messages are encrypted and
each end knows the other by its key. A local socket is reached through a directory in which only its owner can place one
(``addresses``), which tells actors that the learner is theirs; the password tells the learner the same of actors,
also if another user can reach the socket. Encryption there would cost the learner half a millisecond per megabyte,
twice as much as everything else that it does to receive a rollout; the password costs nothing that can be measured.
"""

import contextlib
import hmac
import os
import socket as sockets
import struct
import threading
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from shared.transport.addresses import is_local
from shared.transport.connection_limits import ConnectionLimits
from shared.transport.rollout_ledger import RateLimitedWarnings
from shared.transport.transport_keys import ACTOR_KEY_NAME, ActorKeys, LearnerKeys

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_DOMAIN = b"rollouts"
_ACTOR_NAME = "actor"
_LIMITS_PERIOD_MS = 100
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class ActorAuthentication:
    """The keys of an actor, and the reason of a refused connection."""

    def __init__(self, socket: "zmq.Socket[bytes]", address: str, keys: ActorKeys) -> None:
        """Configure ``socket`` before it connects."""
        if is_local(address):
            socket.plain_username = _ACTOR_NAME.encode()
            socket.plain_password = keys.password.encode()
        else:
            socket.curve_serverkey = bytes.fromhex(keys.learner_public_key)
            socket.curve_publickey = bytes.fromhex(keys.public_key)
            socket.curve_secretkey = bytes.fromhex(keys.secret_key)
        self._monitor = socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._last_event: int | None = None

    def refusal(self) -> str:
        """Return the reason why the last connection failed, or "" if it did not.

        Call it while connections fail: ZeroMQ waits when more than a thousand events are unread.
        """
        while self._monitor.poll(0):
            self._last_event = parse_monitor_message(self._monitor.recv_multipart())["event"]
        if self._last_event is None or self._last_event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return ""
        if self._last_event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"use the {ACTOR_KEY_NAME} of the learner's run: the learner refuses the key of this actor"
        return f"use the {ACTOR_KEY_NAME} of the learner's run: the peer does not have the key of the learner"


class LearnerAuthentication:
    """Accepts connections with the keys of the run, and logs others. It runs one thread.

    ``limits`` are those of tcp connections; None for a local socket.
    """

    def __init__(
        self, context: "zmq.Context[Any]", socket: "zmq.Socket[bytes]", address: str, keys: LearnerKeys
    ) -> None:
        """Configure ``socket`` before it binds."""
        self._socket = socket
        self._actor_key = bytes.fromhex(keys.actor_public_key)
        self._password = keys.password.encode()
        self._mechanism = b"PLAIN" if is_local(address) else b"CURVE"
        self._warnings = RateLimitedWarnings()
        self._last_peer = "unknown"
        self.limits = None if is_local(address) else ConnectionLimits(self._warn)
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP_ADDRESS)
        if is_local(address):
            socket.plain_server = True
        else:
            socket.curve_server = True
            socket.curve_secretkey = bytes.fromhex(keys.secret_key)
        socket.zap_domain = _ZAP_DOMAIN
        events = _FAILURES | zmq.EVENT_ACCEPTED | _ENDED | zmq.EVENT_MONITOR_STOPPED
        self._monitor = socket.get_monitor_socket(events)
        self._thread = threading.Thread(target=self._run, name="rollout-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Call it on the thread of the socket, before that is closed."""
        self._socket.disable_monitor()  # the event ends the thread
        self._thread.join()
        if self.limits is not None:
            self.limits.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        with self._zap, self._monitor:
            while True:
                if self.limits is not None:
                    self.limits.check()
                for ready, _ in poller.poll(None if self.limits is None else _LIMITS_PERIOD_MS):
                    frames = ready.recv_multipart()
                    if ready is self._zap:
                        self._zap.send_multipart(self._authorize(frames))
                    elif not self._note(frames):
                        return

    def _authorize(self, frames: list[bytes]) -> list[bytes]:
        """Answer a request of the ZeroMQ authentication protocol (rfc.zeromq.org/spec/27)."""
        version, request, _, address, _, mechanism, *credentials = frames
        if mechanism == self._mechanism and self._knows(credentials):
            # Without a user id, which would take a place in the queue of the connection for ever.
            return [version, request, b"200", b"OK", b"", b""]
        key = f" {credentials[0].hex()}" if mechanism == b"CURVE" and credentials else ""
        self._warn(_named(address, mechanism), f"key{key} is not that of the actors of this run")
        return [version, request, b"400", b"not a key of this run", b"", b""]

    def _knows(self, credentials: list[bytes]) -> bool:
        if self._mechanism == b"CURVE":
            return credentials == [self._actor_key]
        return len(credentials) == 2 and hmac.compare_digest(credentials[1], self._password)

    def _note(self, frames: list[bytes]) -> bool:
        """Handle an event of the socket monitor; return False for the last one."""
        message = parse_monitor_message(frames)
        event, value = message["event"], message["value"]
        if event == zmq.EVENT_ACCEPTED:
            self._last_peer = _peer(value)
            if self.limits is not None:
                self.limits.opened(value)
        elif event & _ENDED and self.limits is not None:
            self.limits.closed(value)
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            self._warn(self._last_peer, "no key, or one for another learner")
        return bool(event != zmq.EVENT_MONITOR_STOPPED)

    def _warn(self, peer: str, reason: str) -> None:
        self._warnings.warn((peer, reason), f"connection refused peer={peer} reason={reason!r}")


def _named(address: bytes, mechanism: bytes) -> str:
    """Return the host of a peer, or the user of this machine: ``localhost:UID:GID:PID`` for a local socket."""
    name = address.decode(errors="replace")
    parts = name.split(":")
    return f"uid:{parts[1]}" if mechanism == b"PLAIN" and len(parts) == 4 else name


def _peer(descriptor: int) -> str:
    """Return the host, or the user of this machine, that has connected. Unknown if the connection is closed already."""
    with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family != sockets.AF_UNIX:
            return str(connection.getpeername()[0])
        if hasattr(sockets, "SO_PEERCRED"):
            size = struct.calcsize("3i")
            _, uid, _ = struct.unpack("3i", connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, size))
            return f"uid:{uid}"
    return "unknown"
