"""The transports of the contract suite (add a new one to ``TRANSPORTS``), and the participants of a ZeroMQ test."""

import atexit
import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import zmq

from shared.rollouts.rollout import Rollout, RolloutAccounts, RolloutLayout
from shared.transport import messages
from shared.transport.in_process import InProcessReceiver, InProcessSender
from shared.transport.peer_authentication import ActorAuthentication
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport import RolloutReceiver, RolloutSender
from shared.transport.transport_keys import ACTOR_KEY_NAME, ActorKeys, LearnerKeys, keep_learner_keys, read_actor_keys
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, plain_layout
from tests.support.waiting import PATIENCE_S

PRIVATE = Path(tempfile.mkdtemp(prefix="rl-hotswap-test-"))
"""Directory of the sockets and keys of this process."""
atexit.register(shutil.rmtree, PRIVATE, ignore_errors=True)
LEARNER_KEYS = keep_learner_keys(PRIVATE)
ACTOR_KEYS = read_actor_keys(PRIVATE / ACTOR_KEY_NAME)

HEARTBEAT_S = 0.02
LEARNER_TIMEOUT_S = 0.5

_numbers = itertools.count()


class TransportCase(Protocol):
    """One receiver and its senders, all closed by ``close``."""

    receiver: RolloutReceiver

    def sender(self, actor_id: str = "actor-0", window: int = 1) -> RolloutSender: ...

    def close(self) -> None: ...


class ZmqCase:
    def __init__(self, layout: RolloutLayout, address: str, *, synchronous: bool) -> None:
        options = ReceiverOptions(HEARTBEAT_S, synchronous=synchronous)
        self.receiver = ZmqReceiver(address, layout, RUN_ID, options, keys=LEARNER_KEYS)
        self._senders: list[ZmqSender] = []

    def sender(self, actor_id: str = "actor-0", window: int = 1) -> ZmqSender:
        sender = ZmqSender(
            self.receiver.address,
            RUN_ID,
            actor_id,
            window=window,
            learner_timeout_s=LEARNER_TIMEOUT_S,
            keys=ACTOR_KEYS,
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
    return f"ipc://{PRIVATE}/{next(_numbers)}.sock"


TRANSPORTS: dict[str, Callable[[RolloutLayout, bool], TransportCase]] = {
    "zmq-ipc": lambda layout, synchronous: ZmqCase(layout, fresh_address(), synchronous=synchronous),
    "zmq-tcp": lambda layout, synchronous: ZmqCase(layout, "tcp://127.0.0.1:0", synchronous=synchronous),
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
        keys: LearnerKeys = LEARNER_KEYS,
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
        keys: ActorKeys = ACTOR_KEYS,
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

    def garbage_client(self, receiver: ZmqReceiver, *, authenticated: bool = True) -> "GarbageClient":
        """Return a client that is connected, unless it is not authenticated."""
        client = GarbageClient(receiver.address, authenticated=authenticated)
        self.callback(client.close)
        return client


class Program:
    """A process of ``tests.support.transport_programs``."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.transport_programs", name, str(PRIVATE), *arguments],
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
    """A bare socket that can send anything, with the key of the run if it is ``authenticated``."""

    def __init__(self, address: str, *, authenticated: bool) -> None:
        self._address = address
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        if authenticated:
            self._authentication = ActorAuthentication(self.socket, address, ACTOR_KEYS)
            self.connect()

    def connect(self) -> None:
        self.socket.connect(self._address)

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
