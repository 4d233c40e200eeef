"""Control messages between actors and the learner: typed MessagePack, validated when it is decoded.

    actor                                learner
    Hello(sent)                 ->                        on every new connection, and when the learner is silent
                                <-       Welcome(taken)   or Refused(reason), or Stop
    Sending(sequence) + frames  ->
                                <-       Credit(taken)    when the next rollout may be sent, and every heartbeat_s
                                <-       Stop
    Bye(sent)                   ->

Counts and credits are totals, so that messages may be lost, late or repeated. A message names its session by the
token of the session, which only the session and the learner know: no peer can speak for another.
"""

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec

from shared.errors import RolloutInvalid, TransportError
from shared.transport.rollout_ledger import SenderKey

PROTOCOL = 2
_SESSION_ID_LENGTH = 32
MAX_MESSAGE_BYTES = 4096

# Far above the counts of any run, and small enough for exact sums in every language.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Sender(msgspec.Struct, frozen=True, rename={"token": "incarnation"}):
    """The sender of a message: a session of an actor of a run.

    ``token`` is a random secret of the session. Its hash is the session id, which logs, accounts and rollouts contain.
    """

    run_id: Name
    actor_id: Name
    token: Name

    def __repr__(self) -> str:
        return f"Sender({self.run_id!r}, {self.actor_id!r}, session={self.key.session_id})"

    @property
    def key(self) -> SenderKey:
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        return SenderKey(self.actor_id, digest[:_SESSION_ID_LENGTH])


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """``sent`` rollouts were sent or counted as lost so far; none of them will be sent again."""

    sender: Sender
    sent: Count
    protocol: int = PROTOCOL


class Sending(msgspec.Struct, frozen=True, tag="rollout"):
    """The frames of a rollout follow. The number is repeated here to account for invalid rollouts."""

    sender: Sender
    sequence: Count


class Bye(msgspec.Struct, frozen=True, tag="bye"):
    """The sender leaves after ``sent`` rollouts, sent or counted as lost."""

    sender: Sender
    sent: Count


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to ``Hello(sent)``: all below ``taken`` left the queue; a Credit follows every ``heartbeat_s``."""

    sent: Count
    taken: Count
    heartbeat_s: Seconds


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The learner does not accept rollouts of this sender."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class Credit(msgspec.Struct, frozen=True, tag="credit"):
    """All below ``taken`` left the queue; the next should be acted by ``version`` or a newer one. The heartbeat."""

    taken: Count
    version: Count | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The training has ended."""


FromActor = Hello | Sending | Bye
FromLearner = Welcome | Refused | Credit | Stop
_M = TypeVar("_M")

encode = msgspec.msgpack.Encoder().encode
_from_actor: msgspec.msgpack.Decoder[FromActor] = msgspec.msgpack.Decoder(FromActor)
_from_learner: msgspec.msgpack.Decoder[FromLearner] = msgspec.msgpack.Decoder(FromLearner)


def decode_from_actor(frame: Any) -> FromActor:
    return _decode(frame, _from_actor, RolloutInvalid, "an actor")


def decode_from_learner(frame: Any) -> FromLearner:
    return _decode(frame, _from_learner, TransportError, "a learner")


def _decode(frame: Any, decoder: msgspec.msgpack.Decoder[_M], failure: type[TransportError], peer: str) -> _M:
    if len(frame) > MAX_MESSAGE_BYTES:
        raise failure(f"not a message from {peer}: expected at most {MAX_MESSAGE_BYTES} bytes, found {len(frame)}")
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise failure(f"not a message from {peer}: {error}") from error
