"""Settings and helpers of the ZeroMQ sockets of both ends.

The learner has a ROUTER, each actor a DEALER, over ipc on one machine and tcp between machines. Neither end has a
thread between the socket and its caller: ``receive`` and ``wait_for_room`` wait in the socket, so that a rollout or a
credit costs no hand-over between threads and no wait for the GIL.
"""

import math
from typing import Any

import zmq

FLUSH_MS = 500


def detect_lost_hosts(socket: "zmq.Socket[Any]", timeout_s: float) -> None:
    """Send heartbeats on ``socket``: the connection of a host that lost power would look alive for 15 minutes."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, milliseconds(timeout_s / 2))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, milliseconds(2 * timeout_s))


def ready(socket: "zmq.Socket[Any]") -> int:
    """Return POLLIN and POLLOUT as far as they would not block: cheaper than a call that raises zmq.Again."""
    return int(socket.getsockopt(zmq.EVENTS))


def milliseconds(seconds: float) -> int:
    """Round up, so that waiting for a fraction of a millisecond is not a busy loop."""
    return max(0, math.ceil(seconds * 1000))
