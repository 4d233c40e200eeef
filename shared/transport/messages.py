"""What actors and the learner say to each other: typed MessagePack, validated as it is decoded. No pickle.

    actor                                learner
    Hello(sent)                 ->                        on every new connection, and whenever the learner was silent
                                <-       Welcome(taken)   or Refused(reason), or Stop
    Sending(sequence) + frames  ->
                                <-       Credit(taken)    when another rollout is wanted, and every heartbeat_s
                                <-       Stop
    Bye(sent)                   ->

Counts and credits are totals, not differences: a message that is lost, late or repeated does no harm.
"""

from typing import Annotated, Any

import msgspec

from shared.errors import RolloutInvalid, TransportError
from shared.transport.ledger import SenderKey

PROTOCOL = 1
MAX_MESSAGE_BYTES = 4096

# Far above what any run sends, and small enough that sums stay integers everywhere.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Sender(msgspec.Struct, frozen=True, rename={"session_id": "incarnation"}):
    """Who speaks: which life of which actor, for which run."""

    run_id: Name
    actor_id: Name
    session_id: Name

    @property
    def key(self) -> SenderKey:
        return SenderKey(self.actor_id, self.session_id)


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """``sent`` rollouts were sent or counted as lost so far; none of them is still to come."""

    sender: Sender
    sent: Count
    protocol: int = PROTOCOL


class Sending(msgspec.Struct, frozen=True, tag="rollout"):
    """The rollout's frames follow. The number stands here too, so that a broken rollout is still accounted for."""

    sender: Sender
    sequence: Count


class Bye(msgspec.Struct, frozen=True, tag="bye"):
    """The sender leaves; it sent or counted as lost ``sent`` rollouts in all."""

    sender: Sender
    sent: Count


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to ``Hello(sent)``: all below ``taken`` are out of the way; a Credit comes every ``heartbeat_s``."""

    sent: Count
    taken: Count
    heartbeat_s: Seconds


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The learner does not take this sender's rollouts."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class Credit(msgspec.Struct, frozen=True, tag="credit"):
    """All rollouts below ``taken`` are out of the way; the next is best acted by ``version``, or a newer one.

    Repeated every ``heartbeat_s``, so it is the heartbeat too.
    """

    taken: Count
    version: Count | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The training is over."""


FromActor = Hello | Sending | Bye
FromLearner = Welcome | Refused | Credit | Stop

encode = msgspec.msgpack.Encoder().encode
_from_actor: msgspec.msgpack.Decoder[FromActor] = msgspec.msgpack.Decoder(FromActor)
_from_learner: msgspec.msgpack.Decoder[FromLearner] = msgspec.msgpack.Decoder(FromLearner)


def decode_from_actor(frame: Any) -> FromActor:
    """Raises RolloutInvalid where ``frame`` is no message of an actor."""
    if len(frame) > MAX_MESSAGE_BYTES:
        raise RolloutInvalid(
            f"not a message from an actor: expected {MAX_MESSAGE_BYTES} bytes at most, found {len(frame)}"
        )
    try:
        return _from_actor.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RolloutInvalid(f"not a message from an actor: {error}") from error


def decode_from_learner(frame: Any) -> FromLearner:
    """Raises TransportError where ``frame`` is no message of a learner."""
    if len(frame) > MAX_MESSAGE_BYTES:
        raise TransportError(
            f"not a message from a learner: expected {MAX_MESSAGE_BYTES} bytes at most, found {len(frame)}"
        )
    try:
        return _from_learner.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"not a message from a learner: {error}") from error
