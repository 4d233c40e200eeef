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
    """Limit the frames of ``socket``; on tcp let the kernel find hosts that lost power, which would look alive.

    The heartbeats of ZeroMQ would find them too, but libzmq 4.3.5 ends the process (``!_io_error``) if one is due on a
    connection whose peer has gone while messages of it wait.
    """
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, "[" in address)
    if address.startswith("tcp:"):
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, math.ceil(lost_after_s))
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, math.ceil(lost_after_s))
        socket.setsockopt(zmq.TCP_MAXRT, milliseconds(2 * lost_after_s))


def ready(socket: "zmq.Socket[Any]") -> int:
    """Return POLLIN and POLLOUT as far as they would not block: cheaper than a call that raises zmq.Again."""
    return int(socket.getsockopt(zmq.EVENTS))


def milliseconds(seconds: float) -> int:
    """Round up, so that waiting for a fraction of a millisecond is not a busy loop."""
    return max(0, math.ceil(seconds * 1000))
