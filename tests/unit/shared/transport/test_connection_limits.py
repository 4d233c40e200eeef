"""Limits of tcp connections; those of a learner with real peers are in tests/fault/test_transport_garbage.py."""

import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest

from shared.transport import connection_limits
from shared.transport.connection_limits import ConnectionLimits, bytes_received
from tests.support.waiting import until


def test_descriptors_that_are_no_connections_any_more_are_ignored(tmp_path: Path) -> None:
    warnings: list[tuple[str, str]] = []
    with closing(ConnectionLimits(lambda peer, reason: warnings.append((peer, reason)))) as limits:
        with (tmp_path / "file").open("wb") as file, socket.socket() as unconnected:
            for descriptor in (-1, file.fileno(), unconnected.fileno()):
                limits.opened(descriptor)
                limits.message_read(descriptor)
                limits.closed(descriptor)
        limits.check()
    assert warnings == []


@pytest.mark.skipif(sys.platform != "linux", reason="the counters of the kernel are those of Linux")
def test_a_message_that_was_read_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "_MOST_BYTES", 1000)
    warnings: list[tuple[str, str]] = []
    with (
        closing(ConnectionLimits(lambda peer, reason: warnings.append((peer, reason)))) as limits,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as peer,
    ):
        connection, _ = server.accept()
        with connection:
            limits.opened(connection.fileno())
            for total in (900, 1800):
                peer.sendall(bytes(900))
                until(lambda total=total: bytes_received(connection) == total)
                limits.check()
                assert warnings == []
                limits.message_read(connection.fileno())
            peer.sendall(bytes(1001))
            until(lambda: bytes_received(connection) == 2801)
            limits.check()
            assert warnings == [("127.0.0.1", "1001 bytes without the end of a message")]
            assert peer.recv(1) == b""
