"""Garbage clients of the transport: invalid messages and rollouts, floods, and enormous frames."""

import contextlib
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable

import msgspec
import psutil
import pytest
import zmq

from scripts.fault_injection.garbage_client import shake_hands
from shared.rollouts.rollout import RolloutAccounts
from shared.rollouts.rollout_codec import encode_rollout
from shared.transport import connection_limits, messages
from shared.transport.messages import Bye, Hello, Sender, Sending
from shared.transport.receiver_flow import ReceiverOptions
from tests.support.captured_logs import CapturedLogs
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.transport_cases import ACTOR_KEYS, GarbageClient, Network, learn
from tests.support.waiting import PATIENCE_S, Running, until

ROLLOUT = example_rollout(plain_layout())
NAME = Sender(RUN_ID, "stranger", "a token")
STRANGERS_ROLLOUT = encode_rollout(
    plain_layout().assemble(
        msgspec.structs.replace(ROLLOUT.header, actor_id="stranger", session_id=NAME.key.session_id), ROLLOUT.arrays()
    )
)


def test_nonsense_does_not_affect_other_senders(network: Network, captured_logs: CapturedLogs) -> None:
    receiver = network.receiver()
    client = network.garbage_client(receiver)
    for frames in ([b""], [b"\xc1"], [b"hello", b"world"], [b"\x91" * 5000], [messages.encode({"type": "stop"})]):
        client.socket.send_multipart(frames)
    client.send(Hello(NAME, 0))
    until(lambda: receiver.live_senders == 1)
    client.socket.send_multipart([b"nonsense"])
    client.send(Sending(NAME, 0), b"no", b"rollout")
    client.send(Sending(NAME, 1))
    sender = network.sender(receiver.address)
    sender.send(ROLLOUT)
    learn(receiver)
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 2)
    assert receiver.accounts == RolloutAccounts(sent=3, learned=1, invalid=2)
    assert captured_logs.has("'stranger'")


def test_a_rollout_sent_twice_is_counted_once(network: Network) -> None:
    receiver = network.receiver()
    client = network.garbage_client(receiver)
    for _ in range(3):
        client.send(Sending(NAME, 0), *STRANGERS_ROLLOUT)
    client.send(Bye(NAME, 1))
    learn(receiver)
    until(lambda: receiver.live_senders == 0)
    assert receiver.receive(0.0) is None
    assert receiver.accounts == RolloutAccounts(sent=1, learned=1)


@pytest.mark.parametrize(("run_id", "sequence"), [(RUN_ID, 0), ("run-of-yesterday", 1000)])
def test_a_rollout_of_another_sender_or_run_is_invalid(network: Network, run_id: str, sequence: int) -> None:
    """A rollout of another run counts for no sender: its number is ignored."""
    receiver = network.receiver()
    client = network.garbage_client(receiver)
    client.send(Sending(msgspec.structs.replace(NAME, run_id=run_id), sequence), *encode_rollout(ROLLOUT))
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 1)
    assert receiver.accounts == RolloutAccounts(sent=1, invalid=1)


def test_another_protocol_is_refused(network: Network) -> None:
    receiver = network.receiver()
    client = network.garbage_client(receiver)
    client.send(Hello(NAME, 0, protocol=99))
    assert client.socket.poll(int(PATIENCE_S * 1000))
    answer = messages.decode_from_learner(client.socket.recv())
    assert isinstance(answer, messages.Refused)
    assert "protocol" in answer.reason


def flood(client: GarbageClient, frames: Callable[[int], list[bytes]], ended: threading.Event) -> None:
    """Send as fast as the socket accepts, without regard to credit, until ``ended``."""
    client.socket.set(zmq.SNDTIMEO, 100)
    sent = 0
    while not ended.is_set():
        with contextlib.suppress(zmq.Again):
            client.socket.send_multipart(frames(sent))
            sent += 1


@pytest.mark.parametrize("kind", ["rollouts", "empty rollouts", "greetings", "nonsense"])
def test_a_flood_neither_fills_memory_nor_starves_other_senders(
    network: Network, captured_logs: CapturedLogs, kind: str
) -> None:
    receiver = network.receiver(options=ReceiverOptions(0.02, capacity=8, window=2))
    kinds: dict[str, Callable[[int], list[bytes]]] = {
        "rollouts": lambda i: [messages.encode(Sending(NAME, i)), *STRANGERS_ROLLOUT],
        "empty rollouts": lambda i: [messages.encode(Sending(NAME, i)), b"no rollout", bytes(100_000)],
        "greetings": lambda i: [messages.encode(Hello(msgspec.structs.replace(NAME, token=str(i)), 0))],
        "nonsense": lambda i: [bytes(100_000)],
    }
    ended = threading.Event()
    before = psutil.Process().memory_info().rss
    flooding = Running(flood, network.garbage_client(receiver), kinds[kind], ended)
    network.callback(ended.set)
    until(lambda: any("'stranger'" in line or "actor=unknown" in line for line in captured_logs.messages()))

    def act(actor_id: str) -> int:
        sender = network.sender(receiver.address, actor_id, timeout_s=PATIENCE_S)
        for _ in range(50):
            assert sender.send(example_rollout(plain_layout(), actor_id=actor_id))
        return sender.lost

    actors = [Running(act, f"regular-{i}") for i in range(2)]
    learned: Counter[str] = Counter()
    while learned["regular-0"] < 50 or learned["regular-1"] < 50:
        rollout = receiver.receive(PATIENCE_S)
        assert rollout is not None
        receiver.count_learned(rollout)
        learned[rollout.header.actor_id] += 1
    assert [actor.join() for actor in actors] == [0, 0]
    assert psutil.Process().memory_info().rss - before < 100 * 2**20  # the flood had many times that
    ended.set()
    flooding.join()
    receiver.stop_actors(0.0)
    accounts = receiver.accounts
    assert accounts.learned == sum(learned.values())
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost
    if kind == "rollouts":
        assert captured_logs.has("'stranger'", "beyond its window")


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_a_message_of_very_many_frames_is_an_invalid_rollout(network: Network, scheme: str) -> None:
    """Its frames are dropped as they are read; the sender is known and the rollout accounted for."""
    receiver = network.receiver("tcp://127.0.0.1:0" if scheme == "tcp" else None)
    client = network.garbage_client(receiver)
    client.send(Hello(NAME, 0))
    client.send(Sending(NAME, 0), *[b""] * 100_000)
    client.send(Sending(NAME, 1), *STRANGERS_ROLLOUT)
    assert until(lambda: receiver.receive(0.0) or receiver.accounts.sent == 2)
    sender = network.sender(receiver.address, timeout_s=PATIENCE_S)
    assert sender.send(ROLLOUT)
    until(lambda: receiver.receive(0.0))
    assert receiver.accounts.invalid == 2  # the second has the number of another
    assert receiver.live_senders == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the counters of the kernel are those of Linux")
def test_a_message_without_an_end_ends_its_connection_before_it_fills_memory(
    network: Network, captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "_MOST_BYTES", 2**24)
    receiver = network.receiver("tcp://127.0.0.1:0")
    sender = network.sender(receiver.address, timeout_s=PATIENCE_S)
    assert sender.send(ROLLOUT)
    client = network.garbage_client(receiver)
    block = bytes(2**20)
    before = psutil.Process().memory_info().rss
    client.socket.send_multipart([messages.encode(Sending(NAME, 0)), *[block] * 2000], copy=False)  # 2 GB
    until(lambda: captured_logs.has("connection refused peer=127.0.0.1", "without the end of a message"))
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
    client.close()
    learn(receiver)
    assert sender.send(ROLLOUT)
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=2, learned=2)


def test_idle_connections_leave_the_learner_its_descriptors(
    network: Network, captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "_MOST_CONNECTIONS", 5)
    receiver = network.receiver("tcp://127.0.0.1:0")
    sender = network.sender(receiver.address)
    assert sender.send(ROLLOUT)
    port = int(receiver.address.rpartition(":")[2])
    idle = [network.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
    until(lambda: captured_logs.has("connection refused", "more than 5 connections"))
    closed = set()
    until(lambda: closed.update(peer for peer in idle if _is_closed(peer)) or len(closed) >= 16)
    learn(receiver)
    assert sender.send(ROLLOUT)
    learn(receiver)


def _is_closed(peer: socket.socket) -> bool:
    """Return True if the other end closed the connection, False while it says or waits for something."""
    peer.settimeout(0.0)
    try:
        return peer.recv(2**10) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("unread", "closed"),
    [
        ({1: 10, 2: 20}, set()),
        ({1: 10, 2: 101}, {2}),
        ({1: 90, 2: 80, 3: 100, 4: 10}, {3}),
        ({1: 90, 2: 80, 3: 100, 4: 70}, {1, 3}),
        ({1: 500, 2: 80, 3: 100}, {1}),
    ],
)
def test_the_largest_of_many_unfinished_messages_are_given_up(unread: dict[int, int], closed: set[int]) -> None:
    assert connection_limits.too_large(unread, 100, 200) == closed


def test_senders_take_turns(network: Network) -> None:
    receiver = network.receiver()
    for actor_id, window in (("many", 4), ("one", 1)):
        sender = network.sender(receiver.address, actor_id, window=window)
        for _ in range(window):
            sender.send(example_rollout(plain_layout(), actor_id=actor_id))
        until(lambda: receiver.accounts.sent == receiver.live_senders + 3)  # read, and not received yet
    taken = [receiver.receive(PATIENCE_S) for _ in range(5)]
    assert [rollout.header.actor_id for rollout in taken if rollout] == ["many", "one", "many", "many", "many"]


def test_an_enormous_frame_ends_only_its_own_connection(network: Network) -> None:
    """The bytes are those of an actor: a greeting, the password, and the begin of a frame of 10 GB."""
    receiver = network.receiver()
    peer = network.enter_context(socket.socket(socket.AF_UNIX))
    peer.settimeout(PATIENCE_S)
    peer.connect(receiver.address.removeprefix("ipc://"))
    shake_hands(peer, ACTOR_KEYS.password)
    before = psutil.Process().memory_info().vms
    peer.sendall(b"\x02" + (10 * 2**30).to_bytes(8, "big") + b"little")
    while peer.recv(2**16):  # until the receiver closes it
        pass
    assert psutil.Process().memory_info().vms - before < 2**30
    sender = network.sender(receiver.address)
    assert sender.send(ROLLOUT)
    learn(receiver)


def test_one_connection_has_one_sender(network: Network, captured_logs: CapturedLogs) -> None:
    receiver = network.receiver()
    client = network.garbage_client(receiver)
    client.send(Hello(NAME, 0))
    other = msgspec.structs.replace(NAME, actor_id="another")
    client.send(Sending(other, 0), *encode_rollout(ROLLOUT))
    until(lambda: receiver.accounts.invalid == 1)
    assert receiver.live_senders == 1
    assert captured_logs.has("'another'", "one connection has one sender")


@pytest.mark.parametrize("message", [Hello(NAME, 2**50), Sending(NAME, 2**50), Bye(NAME, 2**50)])
def test_an_impossible_count_does_not_change_the_accounts(
    network: Network, captured_logs: CapturedLogs, message: object
) -> None:
    receiver = network.receiver()
    network.garbage_client(receiver).send(message)
    until(lambda: captured_logs.has("'stranger'", "expected a count"))
    assert receiver.accounts.sent <= 1
