"""Control messages are typed and strict, and random bytes are refused."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RolloutInvalid, TransportError
from shared.transport.messages import (
    Bye,
    Credit,
    Hello,
    Refused,
    Sender,
    Sending,
    Stop,
    Welcome,
    decode_from_actor,
    decode_from_learner,
    encode,
)
from shared.transport.receiver_flow import ReceiverFlow, ReceiverOptions
from shared.transport.rollout_ledger import Ledger
from tests.support.rollout_examples import RUN_ID, plain_layout

SENDER = Sender(RUN_ID, "actor-0", "a token")
FROM_ACTOR = [Hello(SENDER, 3), Sending(SENDER, 2), Bye(SENDER, 7)]
FROM_LEARNER = [Welcome(3, 2, 0.5), Refused("why"), Credit(4), Stop()]


@pytest.mark.parametrize("message", FROM_ACTOR + FROM_LEARNER)
def test_messages_are_decoded(message: object) -> None:
    decode = decode_from_actor if message in FROM_ACTOR else decode_from_learner
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("decode", "error", "message"),
    [
        *((decode_from_actor, RolloutInvalid, message) for message in (Hello(SENDER, -1), Sending(SENDER, 2**60))),
        *((decode_from_actor, RolloutInvalid, message) for message in (Bye(Sender("r", "a" * 300, "i"), 0), Credit(1))),
        *((decode_from_learner, TransportError, Welcome(0, 0, heartbeat_s)) for heartbeat_s in (0.0, float("nan"))),
        *((decode_from_learner, TransportError, message) for message in (Credit(-1), Hello(SENDER, 0))),
    ],
)
def test_invalid_messages_are_refused(
    decode: Callable[[bytes], object], error: type[TransportError], message: object
) -> None:
    with pytest.raises(error):
        decode(encode(message))


@st.composite
def mutated(draw: st.DrawFn, messages: list[object]) -> bytes:
    data = bytearray(encode(draw(st.sampled_from(messages))))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(st.lists(st.one_of(mutated(FROM_ACTOR), st.binary(max_size=40)), max_size=3))
def test_a_receiver_accepts_any_bytes(frames: list[bytes]) -> None:
    flow = ReceiverFlow(plain_layout(), RUN_ID, Ledger(), ReceiverOptions())
    flow.process(b"route", frames)
    while flow.waiting:
        arrival, _ = flow.pop()
        assert flow.decode(arrival) is None


@given(st.one_of(mutated(FROM_LEARNER), st.binary(max_size=40)))
def test_invalid_bytes_are_a_transport_error_for_a_sender(data: bytes) -> None:
    with contextlib.suppress(TransportError):
        decode_from_learner(data)
