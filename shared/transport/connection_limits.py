"""Limits of what tcp connections can take from the learner: descriptors, and memory for unfinished messages.

ZeroMQ bounds the size of a frame, but it collects the frames of a message until the last one, without a bound. The
kernel counts the bytes that a connection has received. A connection is closed if it has received far more than a
message may have since its last message was read. The counters exist on Linux.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from shared.rollouts.rollout_codec import MAX_ROLLOUT_BYTES

_MOST_CONNECTIONS = 4096
_DESCRIPTOR_SHARE = 4  # of the descriptors of the process; a connection has two: that of ZeroMQ, and a duplicate
_MOST_BYTES = 2 * MAX_ROLLOUT_BYTES  # unread of one connection
_MEMORY_SHARE = 4  # of the memory of the machine, for the unread bytes of all connections

_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_OFFSET = 128  # of tcpi_bytes_received in struct tcp_info (linux/tcp.h)


def bytes_received(connection: socket.socket) -> int:
    """Return the bytes that a tcp connection has received; 0 where the kernel does not count them."""
    if sys.platform != "linux":
        return 0
    size = _BYTES_RECEIVED_OFFSET + _BYTES_RECEIVED.size
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_OFFSET)[0]) if len(info) == size else 0


@dataclass
class _Connection:
    socket: socket.socket  # of a duplicate, which ZeroMQ cannot close and the kernel cannot give to another file
    peer: str
    read: int = 0

    def unread(self) -> int:
        return bytes_received(self.socket) - self.read

    def end(self) -> None:
        with contextlib.suppress(OSError):  # its peer was faster
            self.socket.shutdown(socket.SHUT_RDWR)


def too_large(unread: dict[int, int], most_bytes: int, most_bytes_of_all: int) -> set[int]:
    """Return the connections to close: those over their limit, and the largest while all are over the common one."""
    closed = {descriptor for descriptor, size in unread.items() if size > most_bytes}
    left = sum(size for descriptor, size in unread.items() if descriptor not in closed)
    for descriptor in sorted(unread.keys() - closed, key=unread.__getitem__, reverse=True):
        if left <= most_bytes_of_all:
            break
        closed.add(descriptor)
        left -= unread[descriptor]
    return closed


class ConnectionLimits:
    """The open tcp connections of a learner, by the descriptor that ZeroMQ has for each."""

    def __init__(self, warn: Callable[[str, str], None]) -> None:
        """``warn`` is called with the peer of each connection that is closed, and the reason."""
        self._warn = warn
        self._lock = threading.Lock()
        self._open: dict[int, _Connection] = {}
        self._most_connections = min(_MOST_CONNECTIONS, _descriptors() // _DESCRIPTOR_SHARE)
        self._most_bytes_of_all = max(_MOST_BYTES, _memory_bytes() // _MEMORY_SHARE)

    def opened(self, descriptor: int) -> None:
        """Note a connection that was accepted. Close it if there are too many."""
        self.closed(descriptor)
        try:
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # closed meanwhile
            return
        try:
            connection = _Connection(duplicate, str(duplicate.getpeername()[0]))
        except OSError:
            duplicate.close()
            return
        with self._lock:
            self._open[descriptor] = connection
            is_one_too_many = len(self._open) > self._most_connections
        if is_one_too_many:
            connection.end()
            self._warn(connection.peer, f"more than {self._most_connections} connections")

    def closed(self, descriptor: int) -> None:
        """Note the end of a connection."""
        with self._lock:
            if (connection := self._open.pop(descriptor, None)) is not None:
                connection.socket.close()

    def message_read(self, descriptor: int) -> None:
        """Note that a message of a connection was read: what has come after it is unread."""
        with self._lock:
            if (connection := self._open.get(descriptor)) is not None:
                connection.read = bytes_received(connection.socket)

    def check(self) -> None:
        """Close connections with too many unread bytes."""
        with self._lock:
            unread = {descriptor: connection.unread() for descriptor, connection in self._open.items()}
            excess = too_large(unread, _MOST_BYTES, self._most_bytes_of_all)
            peers = {descriptor: self._open[descriptor].peer for descriptor in excess}
            for descriptor in excess:
                self._open[descriptor].end()
        for descriptor, peer in peers.items():
            self._warn(peer, f"{unread[descriptor]} bytes without the end of a message")

    def close(self) -> None:
        for descriptor in list(self._open):
            self.closed(descriptor)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _descriptors() -> int:
    if sys.platform == "win32":
        return _MOST_CONNECTIONS
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
