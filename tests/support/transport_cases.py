"""The transports that the contract suite runs on. Add a new one to ``TRANSPORTS``."""

import itertools
import os
from collections.abc import Callable
from typing import Protocol

from shared.rollouts.rollout import RolloutLayout
from shared.transport.addresses import local_address
from shared.transport.in_process import InProcessReceiver, InProcessSender
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport import RolloutReceiver, RolloutSender
from shared.transport.transport_keys import make_keys
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.rollout_examples import RUN_ID

HEARTBEAT_S = 0.02
LEARNER_TIMEOUT_S = 0.5

_numbers = itertools.count()


class TransportCase(Protocol):
    """One receiver and its senders, all closed by ``close``."""

    receiver: RolloutReceiver

    def sender(self, actor_id: str = "actor-0", window: int = 1) -> RolloutSender: ...

    def close(self) -> None: ...


class ZmqCase:
    def __init__(self, layout: RolloutLayout, address: str, *, synchronous: bool, encrypted: bool = False) -> None:
        learner_keys, self._actor_keys = make_keys() if encrypted else (None, None)
        options = ReceiverOptions(HEARTBEAT_S, synchronous=synchronous)
        self.receiver = ZmqReceiver(address, layout, RUN_ID, options, keys=learner_keys)
        self._senders: list[ZmqSender] = []

    def sender(self, actor_id: str = "actor-0", window: int = 1) -> ZmqSender:
        sender = ZmqSender(
            self.receiver.address,
            RUN_ID,
            actor_id,
            window=window,
            learner_timeout_s=LEARNER_TIMEOUT_S,
            keys=self._actor_keys,
        )
        self._senders.append(sender)
        return sender

    def close(self) -> None:
        for sender in self._senders:
            sender.close()
        self.receiver.close()


class InProcessCase:
    def __init__(self, layout: RolloutLayout, *, synchronous: bool) -> None:
        self.receiver = InProcessReceiver(layout, RUN_ID, synchronous=synchronous)
        self._senders: list[RolloutSender] = []

    def sender(self, actor_id: str = "actor-0", window: int = 1) -> RolloutSender:
        sender = InProcessSender(self.receiver, actor_id, window)
        self._senders.append(sender)
        return sender

    def close(self) -> None:
        for sender in self._senders:
            sender.close()
        self.receiver.close()


def fresh_address() -> str:
    """Return an ipc address that no other test uses, in any process."""
    return local_address(f"test-{os.getpid()}-{next(_numbers)}")


TRANSPORTS: dict[str, Callable[[RolloutLayout, bool], TransportCase]] = {
    "zmq-ipc": lambda layout, synchronous: ZmqCase(layout, fresh_address(), synchronous=synchronous),
    "zmq-tcp": lambda layout, synchronous: ZmqCase(layout, "tcp://127.0.0.1:0", synchronous=synchronous),
    "zmq-curve": lambda layout, synchronous: ZmqCase(
        layout, "tcp://127.0.0.1:0", synchronous=synchronous, encrypted=True
    ),
    "in-process": lambda layout, synchronous: InProcessCase(layout, synchronous=synchronous),
}
