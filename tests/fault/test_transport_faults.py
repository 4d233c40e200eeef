"""Rollouts while processes of the transport are stopped, killed and restarted."""

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import psutil
import pytest

from shared.errors import ConfigurationError
from shared.rollouts.rollout import RolloutAccounts
from shared.transport.messages import Sender, Sending
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.captured_logs import CapturedLogs
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.transport_cases import ACTOR_KEYS, LEARNER_KEYS, TIMEOUT_S, Network, fresh_address, learn
from tests.support.transport_programs import HEAVY_LAYOUT
from tests.support.waiting import PATIENCE_S, Running, until

ROLLOUT = example_rollout(plain_layout())
NAME = Sender(RUN_ID, "stranger", "a token")


def test_rollouts_learned_after_the_checkpoint_are_lost_after_a_restart(network: Network) -> None:
    address = fresh_address()
    receiver = network.receiver(address)
    sender = network.sender(address)
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

    receiver = network.receiver(address)
    receiver.restore(checkpoint)
    until(lambda: sender.learner_alive)
    assert sender.send(ROLLOUT)
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=7, learned=4, lost=3)
    assert receiver.actor_restarts == 0


def test_accounts_restored_after_a_greeting_are_the_same(network: Network) -> None:
    address = fresh_address()
    receiver = network.receiver(address)
    sender = network.sender(address)
    sender.send(ROLLOUT)
    learn(receiver)
    checkpoint = receiver.state()
    sender.send(ROLLOUT)
    learn(receiver)
    receiver.close()

    receiver = network.receiver(address)
    until(lambda: sender.wait_for_room(0.01) and receiver.live_senders)  # it greets before the accounts are restored
    receiver.restore(checkpoint)
    sender.send(ROLLOUT)
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=3, learned=2, lost=1)


@pytest.mark.parametrize("restarts", [3])
def test_a_learner_may_be_killed_repeatedly(network: Network, restarts: int) -> None:
    address = fresh_address()
    sender = network.sender(address)
    for _ in range(restarts):
        learner = network.program("learner", address)
        until(lambda: sender.send(ROLLOUT))
        assert learner.line_with("learned") == f"learned {sender.sent - 1}"
        learner.kill()
        until(lambda: not sender.learner_alive)
        assert not sender.send(ROLLOUT)
    learner = network.program("learner", address)
    until(lambda: sender.send(ROLLOUT))
    learner.line_with("learned")
    sender.close()
    accounts = learner.finish()
    assert accounts == RolloutAccounts(sent=sender.sent, learned=1, lost=sender.sent - 1)


def test_accounts_are_exact_after_a_learner_was_killed(network: Network, tmp_path: Path) -> None:
    """Also for an actor that is killed too, and cannot announce its count to the next learner."""
    address = fresh_address()
    learner = network.program("learner", address, str(tmp_path))
    sender = network.sender(address)
    for number in range(3):
        assert sender.send(ROLLOUT)
        learner.line_with(f"learned {number}")
    learner.save_accounts()
    for number in range(3, 5):
        assert sender.send(ROLLOUT)
        learner.line_with(f"learned {number}")
    doomed = network.program("actor-of-five", address)
    learner.line_with("learned 4")
    for program in (learner, doomed):
        program.kill()
    until(lambda: not sender.learner_alive)
    assert not sender.send(ROLLOUT)

    learner = network.program("learner", address, str(tmp_path))
    until(lambda: sender.send(ROLLOUT))
    learner.line_with("learned")
    lost_here = sender.lost
    sender.close()
    # Learned before the checkpoint: 3. Lost after it: 2, and 5 of the killed actor.
    assert learner.finish() == RolloutAccounts(sent=sender.sent + 5, learned=4, lost=7 + lost_here)


@pytest.mark.parametrize("sessions", [3])
def test_an_actor_killed_while_it_sends_leaves_no_partial_rollout(network: Network, sessions: int) -> None:
    receiver = network.receiver(layout=HEAVY_LAYOUT)
    for session in range(sessions):
        actor = network.program("heavy-actor", receiver.address)
        learn(receiver, 2 + session)
        actor.kill()
        while receiver.live_senders:
            if (rollout := receiver.receive(0.0)) is not None:
                receiver.count_stale(rollout)
    receiver.stop_actors(0.0)
    accounts = receiver.accounts
    assert accounts.invalid == 0
    assert accounts.sent == accounts.learned + accounts.stale + accounts.lost
    assert receiver.actor_restarts == sessions - 1


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_an_actor_stopped_for_longer_than_the_timeout_continues(network: Network, scheme: str) -> None:
    receiver = network.receiver(fresh_address() if scheme == "ipc" else "tcp://127.0.0.1:0")
    actor = network.program("actor", receiver.address)
    other = network.sender(receiver.address, "other", timeout_s=PATIENCE_S)
    learn(receiver, 5)
    actor.process.send_signal(signal.SIGSTOP)
    for _ in range(20):  # other actors do not wait
        assert other.send(example_rollout(plain_layout(), actor_id="other"))
        while learn(receiver).header.actor_id != "other":
            pass  # sent before the stop
    silent = Running(receiver.receive, 3 * TIMEOUT_S)
    assert silent.join() is None
    learned = receiver.accounts.learned
    actor.process.send_signal(signal.SIGCONT)
    learn(receiver, 5)
    assert receiver.actor_restarts == 0
    other.close()
    receiver.stop_actors(PATIENCE_S)
    assert actor.process.wait(PATIENCE_S) == 0
    accounts = receiver.accounts
    assert accounts.learned == learned + 5
    assert accounts.sent == accounts.learned + accounts.lost


def test_the_socket_of_a_killed_learner_is_replaced_and_that_of_a_closed_one_removed(network: Network) -> None:
    address = fresh_address()
    learner = network.program("learner", address)
    learner.kill()
    path = Path(address.removeprefix("ipc://"))
    assert path.is_socket()
    receiver = network.receiver(address)
    assert network.sender(address).send(ROLLOUT)
    learn(receiver)
    receiver.close()
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the option of the kernel is that of Linux")
def test_the_kernel_closes_connections_to_a_host_that_lost_power(network: Network) -> None:
    receiver = network.receiver("tcp://127.0.0.1:0", ReceiverOptions(heartbeat_s=0.5))
    sender = network.sender(receiver.address, timeout_s=5.0)
    assert sender.send(ROLLOUT)
    port = int(receiver.address.rpartition(":")[2])
    ends = [end for end in psutil.Process().net_connections("tcp") if end.status == "ESTABLISHED"]
    for end in [end for end in ends if port in (end.laddr.port, end.raddr.port)]:
        with socket.socket(fileno=os.dup(end.fd)) as duplicate:
            assert duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


def test_a_peer_that_goes_while_its_messages_wait_does_not_end_the_learner(network: Network) -> None:
    """The heartbeats of ZeroMQ ended the process then."""
    receiver = network.receiver("tcp://127.0.0.1:0", ReceiverOptions(heartbeat_s=0.02, capacity=1))
    client = network.garbage_client(receiver)
    for number in range(50):  # more than wait in the receiver and in its socket
        client.send(Sending(NAME, number), b"no rollout", bytes(100_000))
    until(lambda: receiver.live_senders == 1)
    client.close()
    threading.Event().wait(0.5)  # some periods of those heartbeats, which nothing else shows
    sender = network.sender(receiver.address, timeout_s=PATIENCE_S)
    sending = Running(sender.send, ROLLOUT)
    assert learn(receiver).header.actor_id == "actor-0"
    assert sending.join()


def test_a_stopped_learner_loses_rollouts_but_those_in_flight_and_continues(network: Network) -> None:
    address = fresh_address()
    learner = network.program("learner", address)
    sender = network.sender(address, window=3)
    assert sender.send(ROLLOUT)
    learner.line_with("learned 0")
    learner.process.send_signal(signal.SIGSTOP)
    assert sender.send(ROLLOUT)
    assert sender.send(ROLLOUT)
    until(lambda: not sender.learner_alive)
    for _ in range(20):
        assert sender.wait_for_room(0.0)  # never blocks
        assert not sender.send(ROLLOUT)
    learner.process.send_signal(signal.SIGCONT)
    learner.line_with("learned 2")
    until(lambda: sender.learner_alive)
    assert sender.send(ROLLOUT)
    learner.line_with("learned 23")
    sender.close()
    assert learner.finish() == RolloutAccounts(sent=24, learned=4, lost=20)


def test_heartbeats_continue_while_an_update_computes(network: Network, captured_logs: CapturedLogs) -> None:
    receiver = network.receiver()
    sender = network.sender(receiver.address)
    sender.send(ROLLOUT)
    learn(receiver)
    sender.send(ROLLOUT)
    waiting = Running(sender.wait_for_room, 3 * TIMEOUT_S)  # True would mean that the learner is taken to be down
    while not waiting.done:
        sum(range(10_000))
    assert not waiting.join()
    assert not captured_logs.has("does not answer")


def test_a_killed_actor_is_noticed_and_not_waited_for(network: Network, captured_logs: CapturedLogs) -> None:
    receiver = network.receiver()
    actor = network.program("actor", receiver.address)
    learn(receiver, 5)
    actor.kill()
    until(lambda: receiver.live_senders == 0)
    assert captured_logs.has("'actor-0'", "connection lost")
    receiver.stop_actors(600.0)  # longer than the test may take
    accounts = receiver.accounts
    assert accounts.sent == accounts.learned + accounts.lost


def test_stopping_waits_for_a_silent_actor_until_the_timeout(network: Network, captured_logs: CapturedLogs) -> None:
    receiver = network.receiver()
    sender = network.sender(receiver.address)
    sender.send(ROLLOUT)
    until(lambda: receiver.live_senders == 1)
    receiver.stop_actors(0.05)
    assert receiver.accounts == RolloutAccounts(sent=1, lost=1)
    assert captured_logs.has("'actor-0'", "did not stop")
    sender.close()


def test_an_actor_that_connects_after_the_end_is_stopped(network: Network) -> None:
    receiver = network.receiver()
    receiver.stop_actors(PATIENCE_S)
    sender = network.sender(receiver.address)
    assert not sender.wait_for_room(PATIENCE_S)
    assert sender.stop_requested


def test_an_actor_of_another_run_is_refused_with_a_reason_and_does_not_wait(
    network: Network, captured_logs: CapturedLogs
) -> None:
    receiver = network.receiver()
    sender = network.sender(receiver.address, run_id="run-of-yesterday")
    assert sender.wait_for_room(PATIENCE_S)
    assert not sender.learner_alive
    assert not sender.send(ROLLOUT)
    assert any("refuses" in line and "'run-of-yesterday'" in line for line in captured_logs.messages("ERROR"))
    assert receiver.receive(0.0) is None
    assert receiver.accounts == RolloutAccounts()


def test_a_refused_actor_is_accepted_by_the_learner_of_its_run(network: Network) -> None:
    address = fresh_address()
    stranger = network.receiver(address, run_id="run-of-yesterday")
    sender = network.sender(address)
    assert not sender.send(ROLLOUT)
    stranger.close()
    receiver = network.receiver(address)
    until(lambda: sender.send(ROLLOUT))
    learn(receiver)
    assert receiver.accounts == RolloutAccounts(sent=sender.sent, learned=1, lost=sender.lost)


def test_a_sender_without_a_learner_does_not_wait(network: Network, captured_logs: CapturedLogs) -> None:
    sender = network.sender(fresh_address())
    assert sender.wait_for_room(PATIENCE_S)
    assert not sender.send(ROLLOUT)
    assert (sender.sent, sender.lost) == (1, 1)
    assert captured_logs.has("learner does not answer")


def test_a_sender_may_start_before_its_learner(network: Network) -> None:
    address = fresh_address()
    sender = network.sender(address)
    sending = Running(lambda: until(lambda: sender.send(ROLLOUT)))
    receiver = network.receiver(address)
    learn(receiver)
    sending.join()
    assert receiver.accounts == RolloutAccounts(sent=sender.sent, learned=1, lost=sender.lost)


def test_the_final_count_announces_lost_rollouts(network: Network) -> None:
    address = fresh_address()
    receiver = network.receiver(address)
    sender = network.sender(address)
    sender.send(ROLLOUT)
    learn(receiver)
    receiver.close()
    until(lambda: not sender.learner_alive)
    for _ in range(4):
        sender.send(ROLLOUT)
    receiver = network.receiver(address)
    until(lambda: sender.learner_alive and receiver.live_senders)
    sender.close()
    until(lambda: receiver.live_senders == 0)
    assert receiver.accounts == RolloutAccounts(sent=5, lost=5)


@pytest.mark.parametrize(
    "address", ["", "nowhere", "ftp://x", "tcp://127.0.0.1:port", "ipc://", "ipc://relative", "ipc://@x"]
)
def test_an_invalid_address_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot receive|expected an address"):
        ZmqReceiver(address, plain_layout(), RUN_ID, keys=LEARNER_KEYS)
    if not address.startswith("tcp"):
        with pytest.raises(ConfigurationError, match="expected an address"):
            ZmqSender(address, RUN_ID, "actor-0", keys=ACTOR_KEYS)


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_an_address_in_use_is_a_configuration_error(network: Network, scheme: str) -> None:
    receiver = network.receiver(fresh_address() if scheme == "ipc" else "tcp://127.0.0.1:0")
    with pytest.raises(ConfigurationError, match="in use"):
        ZmqReceiver(receiver.address, plain_layout(), RUN_ID, keys=LEARNER_KEYS)
