"""Control messages of both directions, and the state machines that process a sequence of them.

The bytes are messages, each after two bytes of length; the highest bit of a length tells the connection.
"""

from collections.abc import Iterator

from loguru import logger

from scripts.fuzz.rollout import LAYOUT
from shared.errors import TransportError
from shared.transport import messages
from shared.transport.receiver_flow import ReceiverFlow, ReceiverOptions
from shared.transport.rollout_ledger import Ledger
from shared.transport.sender_flow import SenderFlow

_MAX_MESSAGES = 50


def run(data: bytes) -> None:
    """Process the messages as a learner and as an actor; the learner's accounts balance at the end."""
    logger.disable("shared")
    ledger = Ledger()
    receiver = ReceiverFlow(LAYOUT, "r", ledger, ReceiverOptions(window=2))
    sender = SenderFlow(2, 5.0, 0.0)
    for i, (route, message) in enumerate(_messages(data)):
        receiver.process(route, [message, b"", b""])
        try:
            answer = messages.decode_from_learner(message)
        except TransportError:
            continue
        assert messages.decode_from_learner(messages.encode(answer)) == answer
        sender.process(answer, float(i))
        assert sender.wait_s(float(i)) >= 0.0
    while receiver.waiting:
        arrival, _ = receiver.pop()
        assert receiver.decode(arrival) is None
    receiver.heartbeats()
    receiver.stop()
    accounts = ledger.accounts
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost


def _messages(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for _ in range(_MAX_MESSAGES):
        if len(data) < 2:
            return
        head = int.from_bytes(data[:2], "big")
        length = head & 0x7FFF
        yield b"route-%d" % (head >> 15), data[2 : 2 + length]
        data = data[2 + length :]
