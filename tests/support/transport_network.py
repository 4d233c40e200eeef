"""Receivers, senders, processes and garbage clients of one test of the ZeroMQ transport."""

import contextlib
import subprocess
import sys

import msgspec
import zmq

from shared.rollouts.rollout import Rollout, RolloutAccounts, RolloutLayout
from shared.transport import messages
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport_keys import ActorKeys, LearnerKeys
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, plain_layout
from tests.support.transport_cases import fresh_address
from tests.support.waiting import PATIENCE_S

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
