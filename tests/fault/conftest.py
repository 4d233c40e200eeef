"""Participants of the ZeroMQ transport, for tests with faults."""

from collections.abc import Iterator

import pytest

from tests.support.transport_cases import Network


@pytest.fixture
def network() -> Iterator[Network]:
    """Participants of the ZeroMQ transport, closed after the test."""
    with Network() as network:
        yield network
