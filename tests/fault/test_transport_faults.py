"""What happens to rollouts when processes stop, die, come back, or talk nonsense."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq
from loguru import logger

from shared.errors import ConfigurationError
from shared.rollouts.rollout_accounts import RolloutAccounts
from shared.rollouts.rollout_codec import encode_rollout
from shared.transport import messages
from shared.transport.messages import Bye, Hello, Sender, Sending
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.transport_cases import fresh_address
from tests.support.transport_programs import HEAVY_LAYOUT
from tests.support.waiting import PATIENCE_S, Running, until

TIMEOUT_S = 0.3
ROLLOUT = example_rollout(plain_layout())


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes what a test opened, last first."""
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    handle = logger.add(lines.append, format="{level} {message}", level="INFO")
    yield lines
    logger.remove(handle)


class Program:
    """One of ``transport_programs``, as a process."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.transport_programs", name, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it prints; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def line_with(self, what: str) -> str:
        while what not in (line := self.line()):
            assert line, f"ended before it printed {what!r}"
        return line

    def keep_books(self) -> None:
        """Have a learner write down its books, as a checkpoint does."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.line_with("kept")

    def finish(self) -> RolloutAccounts:
        """End a learner in order; its books."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return msgspec.json.decode(self.line_with("sent"), type=RolloutAccounts)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def open_receiver(
    stack: contextlib.ExitStack, address: str | None = None, capacity: int = 256, window: int = 16
) -> ZmqReceiver:
    receiver = ZmqReceiver(address or fresh_address(), plain_layout(), RUN_ID, ReceiverOptions(0.02, capacity, window))
    stack.callback(receiver.close)
    return receiver


def open_sender(
    stack: contextlib.ExitStack,
    address: str,
    actor_id: str = "actor-0",
    *,
    window: int = 1,
    run_id: str = RUN_ID,
    timeout_s: float = TIMEOUT_S,
) -> ZmqSender:
    sender = ZmqSender(address, run_id, actor_id, window=window, learner_timeout_s=timeout_s)
    stack.callback(sender.close)
    return sender


def open_program(stack: contextlib.ExitStack, name: str, *arguments: str) -> Program:
    program = Program(name, *arguments)
    stack.callback(program.kill)
    return program


def learn(receiver: ZmqReceiver, how_many: int = 1) -> None:
    for _ in range(how_many):
        rollout = receiver.receive(PATIENCE_S)
        assert rollout is not None
        receiver.count_learned(rollout)


def test_what_was_learned_after_the_checkpoint_is_lost_when_the_learner_comes_back(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    receiver = open_receiver(stack, address)
    sender = open_sender(stack, address)
    for _ in range(3):
        sender.send(ROLLOUT)
        learn(receiver)
    checkpoint = receiver.state()
    for _ in range(2):
        sender.send(ROLLOUT)
        learn(receiver)
    receiver.close()
    until(lambda: not sender.learner_alive)
    assert not sender.send(ROLLOUT)

    receiver = open_receiver(stack, address)
    receiver.restore(checkpoint)
    until(lambda: sender.learner_alive)
    assert sender.send(ROLLOUT)
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=7, learned=4, lost=3)
    assert receiver.actor_restarts == 0


def test_books_restored_after_senders_were_heard_come_out_the_same(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    receiver = open_receiver(stack, address)
    sender = open_sender(stack, address)
    sender.send(ROLLOUT)
    learn(receiver)
    checkpoint = receiver.state()
    sender.send(ROLLOUT)
    learn(receiver)
    receiver.close()

    receiver = open_receiver(stack, address)
    until(lambda: sender.wait_for_room(0.01) and receiver.live_senders)  # it greets before the books are there
    receiver.restore(checkpoint)
    sender.send(ROLLOUT)
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=3, learned=2, lost=1)


@pytest.mark.parametrize("restarts", [3])
def test_a_learner_may_be_killed_again_and_again(stack: contextlib.ExitStack, restarts: int) -> None:
    address = fresh_address()
    sender = open_sender(stack, address)
    for _ in range(restarts):
        learner = open_program(stack, "learner", address)
        learner.line_with("bound")
        until(lambda: sender.send(ROLLOUT))
        assert learner.line_with("learned") == f"learned {sender.sent - 1}"
        learner.process.kill()
        learner.process.wait()
        until(lambda: not sender.learner_alive)
        assert not sender.send(ROLLOUT)
    learner = open_program(stack, "learner", address)
    until(lambda: sender.send(ROLLOUT))
    learner.line_with("learned")
    sender.close()
    accounts = learner.finish()
    assert accounts == RolloutAccounts(sent=sender.sent, learned=1, lost=sender.sent - 1)


def test_the_books_of_a_killed_learner_are_exact_over_the_whole_run(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """Also for an actor that dies with it, and cannot tell the next learner what it had sent."""
    address = fresh_address()
    learner = open_program(stack, "learner", address, str(tmp_path))
    learner.line_with("bound")
    sender = open_sender(stack, address)
    for number in range(3):
        assert sender.send(ROLLOUT)
        learner.line_with(f"learned {number}")
    learner.keep_books()
    for number in range(3, 5):
        assert sender.send(ROLLOUT)
        learner.line_with(f"learned {number}")
    doomed = open_program(stack, "actor-of-five", address)
    learner.line_with("learned 4")
    for program in (learner, doomed):
        program.process.kill()
        program.process.wait()
    until(lambda: not sender.learner_alive)
    assert not sender.send(ROLLOUT)

    learner = open_program(stack, "learner", address, str(tmp_path))
    until(lambda: sender.send(ROLLOUT))
    learner.line_with("learned")
    lost_here = sender.lost
    sender.close()
    # Learned before the checkpoint: 3. After it, by the learner that was killed: 2 and the 5 of an actor that is gone.
    assert learner.finish() == RolloutAccounts(sent=sender.sent + 5, learned=4, lost=7 + lost_here)


@pytest.mark.parametrize("lives", [3])
def test_an_actor_killed_while_it_sends_leaves_nothing_half_sent(stack: contextlib.ExitStack, lives: int) -> None:
    receiver = ZmqReceiver(fresh_address(), HEAVY_LAYOUT, RUN_ID, ReceiverOptions(heartbeat_s=0.02))
    stack.callback(receiver.close)
    for life in range(lives):
        actor = open_program(stack, "heavy-actor", receiver.address)
        learn(receiver, 2 + life)
        actor.process.kill()
        actor.process.wait()
        while receiver.live_senders:
            if (rollout := receiver.receive(0.0)) is not None:
                receiver.count_stale(rollout)
    receiver.stop_actors(0.0)
    accounts = receiver.accounts
    assert accounts.invalid == 0
    assert accounts.sent == accounts.learned + accounts.stale + accounts.lost
    assert receiver.actor_restarts == lives - 1


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_an_actor_that_is_stopped_longer_than_anybody_waits_goes_on_when_continued(
    stack: contextlib.ExitStack, log: list[str], scheme: str
) -> None:
    """Over tcp the learner gives it up meanwhile, as if its host had lost power."""
    receiver = open_receiver(stack, fresh_address() if scheme == "ipc" else "tcp://127.0.0.1:0")
    actor = open_program(stack, "actor", receiver.address)
    honest = open_sender(stack, receiver.address, "honest", timeout_s=PATIENCE_S)
    learn(receiver, 5)
    actor.process.send_signal(signal.SIGSTOP)
    until(lambda: (rollout := receiver.receive(0.0)) is None or receiver.count_learned(rollout))
    for _ in range(20):  # nobody else is kept waiting
        assert honest.send(example_rollout(plain_layout(), actor_id="honest"))
        learn(receiver)
    silent = Running(receiver.receive, 3 * TIMEOUT_S)
    assert silent.join() is None
    if scheme == "tcp":
        until(lambda: any("'actor-0'" in line and "connection lost" in line for line in log))
    learned = receiver.accounts.learned
    actor.process.send_signal(signal.SIGCONT)
    learn(receiver, 5)
    assert receiver.actor_restarts == 0
    honest.close()
    receiver.stop_actors(PATIENCE_S)
    assert actor.process.wait(PATIENCE_S) == 0
    accounts = receiver.accounts
    assert accounts.learned == learned + 5
    assert accounts.sent == accounts.learned + accounts.lost


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere addresses are files")
def test_a_killed_learner_leaves_no_address_behind(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    learner = open_program(stack, "learner", address)
    learner.line_with("bound")
    name = address.removeprefix("ipc://")
    assert name.startswith("@")  # in no directory
    assert name in Path("/proc/net/unix").read_text()
    learner.process.kill()
    learner.process.wait()
    assert name not in Path("/proc/net/unix").read_text()


def test_a_learner_that_is_stopped_loses_rollouts_and_goes_on_when_continued(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    learner = open_program(stack, "learner", address)
    learner.line_with("bound")
    sender = open_sender(stack, address, window=2)
    assert sender.send(ROLLOUT)
    learner.line_with("learned 0")
    learner.process.send_signal(signal.SIGSTOP)
    until(lambda: not sender.learner_alive)
    for _ in range(20):
        assert sender.wait_for_room(0.0)  # never blocks
        assert not sender.send(ROLLOUT)
    learner.process.send_signal(signal.SIGCONT)
    until(lambda: sender.learner_alive)
    assert sender.send(ROLLOUT)
    learner.line_with("learned 21")
    sender.close()
    assert learner.finish() == RolloutAccounts(sent=22, learned=2, lost=20)


def test_rollouts_under_way_to_a_stopped_learner_are_not_lost(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    learner = open_program(stack, "learner", address)
    learner.line_with("bound")
    sender = open_sender(stack, address, window=2)
    assert sender.wait_for_room(PATIENCE_S)
    learner.process.send_signal(signal.SIGSTOP)
    assert sender.send(ROLLOUT)
    assert sender.send(ROLLOUT)
    until(lambda: not sender.learner_alive)
    assert not sender.send(ROLLOUT)
    learner.process.send_signal(signal.SIGCONT)
    learner.line_with("learned 1")
    until(lambda: sender.learner_alive)
    assert sender.send(ROLLOUT)
    learner.line_with("learned 3")
    sender.close()
    assert learner.finish() == RolloutAccounts(sent=4, learned=3, lost=1)


def test_heartbeats_go_on_while_an_update_computes(stack: contextlib.ExitStack, log: list[str]) -> None:
    receiver = open_receiver(stack)
    sender = open_sender(stack, receiver.address)
    sender.send(ROLLOUT)
    learn(receiver)
    sender.send(ROLLOUT)
    waiting = Running(sender.wait_for_room, 3 * TIMEOUT_S)  # True would mean that it believes the learner away
    while not waiting.done:
        sum(range(10_000))
    assert not waiting.join()
    assert not any("does not answer" in line for line in log)


def test_a_killed_actor_is_noticed_and_not_waited_for(stack: contextlib.ExitStack, log: list[str]) -> None:
    receiver = open_receiver(stack)
    actor = open_program(stack, "actor", receiver.address)
    learn(receiver, 5)
    actor.process.kill()
    actor.process.wait()
    until(lambda: receiver.live_senders == 0)
    assert any("'actor-0'" in line and "connection lost" in line for line in log)
    receiver.stop_actors(600.0)  # longer than the test may take
    accounts = receiver.accounts
    assert accounts.sent == accounts.learned + accounts.lost


def test_an_actor_that_does_not_answer_is_waited_for_no_longer_than_said(
    stack: contextlib.ExitStack, log: list[str]
) -> None:
    receiver = open_receiver(stack)
    sender = open_sender(stack, receiver.address)
    sender.send(ROLLOUT)
    until(lambda: receiver.live_senders == 1)
    receiver.stop_actors(0.05)
    assert receiver.accounts == RolloutAccounts(sent=1, lost=1)
    assert any("'actor-0'" in line and "did not stop" in line for line in log)
    sender.close()


def test_an_actor_that_comes_after_the_end_is_told_to_stop(stack: contextlib.ExitStack) -> None:
    receiver = open_receiver(stack)
    receiver.stop_actors(PATIENCE_S)
    sender = open_sender(stack, receiver.address)
    assert not sender.wait_for_room(PATIENCE_S)
    assert sender.stop_requested


def test_another_runs_actor_is_refused_with_a_reason_and_does_not_wait(
    stack: contextlib.ExitStack, log: list[str]
) -> None:
    receiver = open_receiver(stack)
    sender = open_sender(stack, receiver.address, run_id="run-of-yesterday")
    assert sender.wait_for_room(PATIENCE_S)
    assert not sender.learner_alive
    assert not sender.send(ROLLOUT)
    assert any(line.startswith("ERROR") and "refuses" in line and "'run-of-yesterday'" in line for line in log), log
    assert receiver.receive(0.0) is None
    assert receiver.accounts == RolloutAccounts()


def test_an_actor_that_was_refused_is_taken_by_its_own_runs_learner(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    stranger = ZmqReceiver(address, plain_layout(), "run-of-yesterday", ReceiverOptions(heartbeat_s=0.02))
    stack.callback(stranger.close)
    sender = open_sender(stack, address)
    assert not sender.send(ROLLOUT)
    stranger.close()
    receiver = open_receiver(stack, address)
    until(lambda: sender.send(ROLLOUT))
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=sender.sent, learned=1, lost=sender.lost)


def test_nobody_there_is_nothing_to_wait_for(stack: contextlib.ExitStack, log: list[str]) -> None:
    sender = open_sender(stack, fresh_address())
    assert sender.wait_for_room(PATIENCE_S)
    assert not sender.send(ROLLOUT)
    assert (sender.sent, sender.lost) == (1, 1)
    assert any("learner does not answer" in line for line in log)


def test_a_sender_may_be_there_before_its_learner(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    sender = open_sender(stack, address)
    sending = Running(lambda: until(lambda: sender.send(ROLLOUT)))
    receiver = open_receiver(stack, address)
    learn(receiver)
    sending.join()
    assert receiver.accounts == RolloutAccounts(sent=sender.sent, learned=1, lost=sender.lost)


def test_the_final_count_tells_what_never_came(stack: contextlib.ExitStack) -> None:
    address = fresh_address()
    receiver = open_receiver(stack, address)
    sender = open_sender(stack, address)
    sender.send(ROLLOUT)
    learn(receiver)
    receiver.close()
    until(lambda: not sender.learner_alive)
    for _ in range(4):
        sender.send(ROLLOUT)
    receiver = open_receiver(stack, address)
    until(lambda: sender.learner_alive and receiver.live_senders)
    sender.close()
    until(lambda: receiver.live_senders == 0)
    assert receiver.accounts == RolloutAccounts(sent=5, lost=5)


class Stranger:
    """A bare socket that can say anything."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.connect(address)

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def meet(stack: contextlib.ExitStack) -> Callable[[ZmqReceiver], Stranger]:
    def introduce(receiver: ZmqReceiver) -> Stranger:
        stranger = Stranger(receiver.address)
        stack.callback(stranger.close)
        return stranger

    return introduce


NAME = Sender(RUN_ID, "stranger", "life-1")


def test_nonsense_harms_nobody_else(
    stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger], log: list[str]
) -> None:
    receiver = open_receiver(stack)
    stranger = meet(receiver)
    for frames in ([b""], [b"\xc1"], [b"hello", b"world"], [b"\x91" * 5000], [messages.encode({"type": "stop"})]):
        stranger.socket.send_multipart(frames)
    stranger.socket.send_multipart([messages.encode(Hello(NAME, 0))])
    until(lambda: receiver.live_senders == 1)
    stranger.socket.send_multipart([b"nonsense"])
    stranger.socket.send_multipart([messages.encode(Sending(NAME, 0)), b"no", b"rollout"])
    stranger.socket.send_multipart([messages.encode(Sending(NAME, 1))])
    sender = open_sender(stack, receiver.address)
    sender.send(ROLLOUT)
    learn(receiver)
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 2)
    assert receiver.accounts == RolloutAccounts(sent=3, learned=1, invalid=2)
    assert any("'stranger'" in line for line in log)


def test_a_rollout_sent_twice_is_counted_once(
    stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger]
) -> None:
    receiver = open_receiver(stack)
    stranger = meet(receiver)
    header = msgspec.structs.replace(ROLLOUT.header, actor_id="stranger", session_id="life-1")
    stranger_rollout = plain_layout().assemble(header, ROLLOUT.arrays())
    for _ in range(3):
        stranger.socket.send_multipart([messages.encode(Sending(NAME, 0)), *encode_rollout(stranger_rollout)])
    stranger.socket.send_multipart([messages.encode(Bye(NAME, 1))])
    learn(receiver)
    until(lambda: receiver.live_senders == 0)
    assert receiver.receive(0.0) is None
    assert receiver.accounts == RolloutAccounts(sent=1, learned=1)


def test_a_rollout_under_anothers_name_is_invalid(
    stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger]
) -> None:
    receiver = open_receiver(stack)
    stranger = meet(receiver)
    stranger.socket.send_multipart([messages.encode(Sending(NAME, 0)), *encode_rollout(ROLLOUT)])
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 1)


def test_another_runs_rollout_is_invalid_and_in_nobodys_numbers(
    stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger]
) -> None:
    receiver = open_receiver(stack)
    stranger = meet(receiver)
    other = msgspec.structs.replace(NAME, run_id="run-of-yesterday")
    stranger.socket.send_multipart([messages.encode(Sending(other, 1000)), *encode_rollout(ROLLOUT)])
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 1)
    assert receiver.accounts == RolloutAccounts(sent=1, invalid=1)


def test_another_protocol_is_refused(stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger]) -> None:
    receiver = open_receiver(stack)
    stranger = meet(receiver)
    stranger.socket.send_multipart([messages.encode(Hello(NAME, 0, protocol=99))])
    assert stranger.socket.poll(int(PATIENCE_S * 1000))
    answer = messages.decode_from_learner(stranger.socket.recv())
    assert isinstance(answer, messages.Refused)
    assert "protocol" in answer.reason


def flood(address: str, frames: Callable[[int], list[bytes]], ended: threading.Event) -> int:
    """Send as fast as the socket takes it, whatever the learner says. How many."""
    stranger = Stranger(address)
    stranger.socket.set(zmq.SNDTIMEO, 100)
    sent = 0
    while not ended.is_set():
        with contextlib.suppress(zmq.Again):
            stranger.socket.send_multipart(frames(sent))
            sent += 1
    stranger.close()
    return sent


@pytest.mark.parametrize("kind", ["rollouts", "empty rollouts", "greetings", "nonsense"])
def test_a_flood_neither_fills_memory_nor_starves_the_honest(
    stack: contextlib.ExitStack, log: list[str], kind: str
) -> None:
    receiver = open_receiver(stack, capacity=8, window=2)
    valid = encode_rollout(
        plain_layout().assemble(
            msgspec.structs.replace(ROLLOUT.header, actor_id="stranger", session_id="life-1"), ROLLOUT.arrays()
        )
    )
    kinds: dict[str, Callable[[int], list[bytes]]] = {
        "rollouts": lambda i: [messages.encode(Sending(NAME, i)), *valid],
        "empty rollouts": lambda i: [messages.encode(Sending(NAME, i)), b"no rollout", bytes(100_000)],
        "greetings": lambda i: [messages.encode(Hello(msgspec.structs.replace(NAME, session_id=str(i)), 0))],
        "nonsense": lambda i: [bytes(100_000)],
    }
    ended = threading.Event()
    before = psutil.Process().memory_info().rss
    flooding = Running(flood, receiver.address, kinds[kind], ended)
    stack.callback(ended.set)
    until(lambda: any("'stranger'" in line or "actor=unknown" in line for line in log))

    def act(actor_id: str) -> int:
        sender = open_sender(stack, receiver.address, actor_id, timeout_s=PATIENCE_S)
        for _ in range(50):
            assert sender.send(example_rollout(plain_layout(), actor_id=actor_id))
        return sender.lost

    actors = [Running(act, f"honest-{i}") for i in range(2)]
    learned: Counter[str] = Counter()
    while learned["honest-0"] < 50 or learned["honest-1"] < 50:
        rollout = receiver.receive(PATIENCE_S)
        assert rollout is not None
        receiver.count_learned(rollout)
        learned[rollout.header.actor_id] += 1
    assert [actor.join() for actor in actors] == [0, 0]
    assert psutil.Process().memory_info().rss - before < 100 * 2**20  # flooded with many times that
    ended.set()
    flooding.join()
    receiver.stop_actors(0.0)
    accounts = receiver.accounts
    assert accounts.learned == sum(learned.values())
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost
    if kind == "rollouts":
        assert any("'stranger'" in line and "beyond its window" in line for line in log)


def test_senders_are_taken_up_in_turn(stack: contextlib.ExitStack) -> None:
    receiver = open_receiver(stack)
    for actor_id, window in (("many", 4), ("one", 1)):
        sender = open_sender(stack, receiver.address, actor_id, window=window)
        for _ in range(window):
            sender.send(example_rollout(plain_layout(), actor_id=actor_id))
        until(lambda: receiver.accounts.sent == receiver.live_senders + 3)  # read, and not taken up yet
    taken = [receiver.receive(PATIENCE_S) for _ in range(5)]
    assert [rollout.header.actor_id for rollout in taken if rollout] == ["many", "one", "many", "many", "many"]


def test_a_message_that_claims_to_be_enormous_ends_its_connection_only(stack: contextlib.ExitStack) -> None:
    """Bytes as ZeroMQ's peers exchange them: a greeting, no security, then a frame of 10 GB, of which little comes."""
    receiver = open_receiver(stack, "tcp://127.0.0.1:0")
    peer = stack.enter_context(
        socket.create_connection(("127.0.0.1", int(receiver.address.rpartition(":")[2])), PATIENCE_S)
    )
    peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31))
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    peer.sendall(b"\x04" + bytes([len(ready)]) + ready)
    before = psutil.Process().memory_info().vms
    peer.sendall(b"\x02" + (10 * 2**30).to_bytes(8, "big") + b"little")
    while peer.recv(2**16):  # until it is hung up on
        pass
    assert psutil.Process().memory_info().vms - before < 2**30
    sender = open_sender(stack, receiver.address)
    assert sender.send(ROLLOUT)
    learn(receiver)


def test_one_connection_has_one_name(
    stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger], log: list[str]
) -> None:
    receiver = open_receiver(stack)
    stranger = meet(receiver)
    stranger.socket.send_multipart([messages.encode(Hello(NAME, 0))])
    other = msgspec.structs.replace(NAME, actor_id="somebody else")
    stranger.socket.send_multipart([messages.encode(Sending(other, 0)), *encode_rollout(ROLLOUT)])
    until(lambda: receiver.accounts.invalid == 1)
    assert receiver.live_senders == 1
    assert any("'somebody else'" in line and "one connection has one sender" in line for line in log)


@pytest.mark.parametrize("message", [Hello(NAME, 2**50), Sending(NAME, 2**50), Bye(NAME, 2**50)])
def test_a_count_that_nobody_can_have_reached_does_not_spoil_the_books(
    stack: contextlib.ExitStack, meet: Callable[[ZmqReceiver], Stranger], log: list[str], message: object
) -> None:
    receiver = open_receiver(stack)
    meet(receiver).socket.send_multipart([messages.encode(message)])
    until(lambda: any("'stranger'" in line and "expected a count" in line for line in log))
    assert receiver.accounts.sent <= 1


@pytest.mark.parametrize("address", ["", "nowhere", "ftp://x", "tcp://127.0.0.1:port", "ipc://"])
def test_an_address_that_is_none_is_a_mistake_of_configuration(address: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot receive"):
        ZmqReceiver(address, plain_layout(), RUN_ID)


@pytest.mark.parametrize("address", ["", "nowhere", "ftp://x"])
def test_nothing_can_be_sent_to_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot send"):
        ZmqSender(address, RUN_ID, "actor-0")


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_an_address_that_is_taken_is_a_mistake_of_configuration(stack: contextlib.ExitStack, scheme: str) -> None:
    receiver = open_receiver(stack, fresh_address() if scheme == "ipc" else "tcp://127.0.0.1:0")
    with pytest.raises(ConfigurationError, match="in use"):
        ZmqReceiver(receiver.address, plain_layout(), RUN_ID)
