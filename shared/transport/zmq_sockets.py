"""Settings and helpers of the ZeroMQ sockets of both ends.

The learner has a ROUTER, each actor a DEALER, over ipc on one machine and tcp between machines. ``receive`` and
``wait_for_room`` wait in the socket: a rollout or a credit costs no hand-over between threads and no wait for the GIL.
"""

import math
from typing import Any

import zmq

FLUSH_MS = 500
_HANDSHAKE_MS = 5000  # a connection that does not authenticate itself in time is closed


def configure(socket: "zmq.Socket[Any]", address: str, most_bytes: int, lost_after_s: float) -> None:
    """Limit the frames of ``socket``; on tcp send heartbeats, without which a host that lost power looks alive."""
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
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
