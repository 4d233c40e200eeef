"""The transports of the contract suite (add a new one to ``TRANSPORTS``), and the participants of a ZeroMQ test."""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Protocol

import msgspec
import zmq

from shared.rollouts.rollout import Rollout, RolloutAccounts, RolloutLayout
from shared.transport import messages
from shared.transport.addresses import local_address
from shared.transport.in_process import InProcessReceiver, InProcessSender
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport import RolloutReceiver, RolloutSender
from shared.transport.transport_keys import ActorKeys, LearnerKeys, make_keys
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, plain_layout
from tests.support.waiting import PATIENCE_S

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


TIMEOUT_S = 0.3
FAST = ReceiverOptions(heartbeat_s=0.02)


class Network(contextlib.ExitStack):
    """Creates the participants of a test and closes them in reverse order."""

    def receiver(
        self,
        address: str | None = None,
        options: ReceiverOptions = FAST,
        *,
        layout: RolloutLayout | None = None,
        run_id: str = RUN_ID,
        keys: LearnerKeys | None = None,
    ) -> ZmqReceiver:
        receiver = ZmqReceiver(address or fresh_address(), layout or plain_layout(), run_id, options, keys=keys)
        self.callback(receiver.close)
        return receiver

    def sender(
        self,
        address: str,
        actor_id: str = "actor-0",
        *,
        window: int = 1,
        run_id: str = RUN_ID,
        timeout_s: float = TIMEOUT_S,
        keys: ActorKeys | None = None,
    ) -> ZmqSender:
        sender = ZmqSender(address, run_id, actor_id, window=window, learner_timeout_s=timeout_s, keys=keys)
        self.callback(sender.close)
        return sender

    def program(self, name: str, *arguments: str) -> "Program":
        program = Program(name, *arguments)
        self.callback(program.kill)
        if name == "learner":
            program.line_with("bound")
        return program

    def garbage_client(self, receiver: ZmqReceiver) -> "GarbageClient":
        client = GarbageClient(receiver.address)
        self.callback(client.close)
        return client


class Program:
    """A process of ``tests.support.transport_programs``."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.transport_programs", name, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line_with(self, text: str) -> str:
        """Wait for a printed line that contains ``text``, and return it."""
        assert self.process.stdout is not None
        while text not in (line := self.process.stdout.readline().strip()):
            assert line, f"ended before it printed {text!r}"
        return line

    def save_accounts(self) -> None:
        """Let a learner write its accounts to a file, as a checkpoint does."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.line_with("saved")

    def finish(self) -> RolloutAccounts:
        """End a learner in order and return its accounts."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return msgspec.json.decode(self.line_with("sent"), type=RolloutAccounts)

    def kill(self) -> None:
        """Kill the process and wait for its end. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class GarbageClient:
    """A bare socket that can send anything."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.connect(address)

    def send(self, message: object, *frames: bytes) -> None:
        """Send a control message and frames."""
        self.socket.send_multipart([messages.encode(message), *frames])

    def close(self) -> None:
        self._context.destroy(linger=0)


def learn(receiver: ZmqReceiver, count: int = 1) -> Rollout:
    """Receive ``count`` rollouts, count them as learned and return the last one."""
    for _ in range(count):
        rollout = receiver.receive(PATIENCE_S)
        assert rollout is not None
        receiver.count_learned(rollout)
    return rollout
