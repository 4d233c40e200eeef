"""Keys of the transport: peers without them neither read nor send, and are logged; other actors continue."""

import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zmq

from shared.errors import ConfigurationError
from shared.rollouts.rollout import RolloutAccounts
from shared.run.run_directory import RunDirectory
from shared.transport.transport_keys import (
    ACTOR_KEY_NAME,
    LEARNER_KEY_NAME,
    choose_actor_keys,
    keep_learner_keys,
    make_keys,
    read_actor_keys,
)
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.agent_policies import publish_run
from tests.support.captured_logs import CapturedLogs
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.transport_cases import Network, fresh_address, learn
from tests.support.waiting import PATIENCE_S, until

ROLLOUT = example_rollout(plain_layout())
TCP = "tcp://127.0.0.1:0"


@pytest.mark.parametrize(
    ("case", "warning", "own_warning"),
    [
        ("no key", "no key", "learner does not answer"),
        ("another learner's key", "no key, or one for another learner", "does not have the key of the learner"),
        ("a key of its own", "is not that of the actors of this run", "refuses the key of this actor"),
    ],
)
def test_a_peer_without_the_key_is_refused_and_logged_and_other_actors_continue(
    network: Network, captured_logs: CapturedLogs, case: str, warning: str, own_warning: str
) -> None:
    learner_keys, actor_keys = make_keys()
    receiver = network.receiver(TCP, keys=learner_keys)
    other_keys = make_keys()[1]  # the public key of the learner is in run.json, which is no secret
    own_key = msgspec.structs.replace(other_keys, learner_public_key=actor_keys.learner_public_key)
    keys = {"no key": None, "another learner's key": other_keys, "a key of its own": own_key}[case]
    refused = network.sender(receiver.address, "stranger", keys=keys)
    other = network.sender(receiver.address, "other", keys=actor_keys)
    for _ in range(3):
        assert other.send(example_rollout(plain_layout(), actor_id="other"))
        learn(receiver)
    assert not refused.send(ROLLOUT)  # it waits for the timeout, and counts the rollout as lost
    assert receiver.accounts == RolloutAccounts(sent=3, learned=3)
    # Without a key to check, the connection may be closed before its peer is known.
    peer = "127.0.0.1" if case == "a key of its own" else ""
    refusals = until(lambda: [line for line in captured_logs.messages() if f"connection refused peer={peer}" in line])
    assert warning in refusals[0]
    assert case != "a key of its own" or own_key.public_key in refusals[0]
    assert captured_logs.has(own_warning), captured_logs.messages()
    assert receiver.live_senders == 1


def test_a_restarted_learner_accepts_the_same_key(network: Network, tmp_path: Path) -> None:
    receiver = network.receiver(TCP, keys=keep_learner_keys(tmp_path))
    address = receiver.address
    sender = network.sender(address, keys=read_actor_keys(tmp_path / ACTOR_KEY_NAME))
    assert sender.send(ROLLOUT)
    receiver.close()
    until(lambda: not sender.learner_alive)
    again = network.receiver(address, keys=keep_learner_keys(tmp_path))
    until(lambda: sender.send(ROLLOUT))
    assert again.receive(PATIENCE_S) is not None


def test_rollouts_cannot_be_read_on_the_way(network: Network) -> None:
    """A man in the middle forwards everything and finds no plain text."""
    learner_keys, actor_keys = make_keys()
    seen = {}
    for name, keys in (("clear", (None, None)), ("encrypted", (learner_keys, actor_keys))):
        receiver = network.receiver(TCP, keys=keys[0])
        context = zmq.Context()
        network.callback(context.destroy, 0)
        listener = network.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = network.sender(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "a-telling-name", keys=keys[1])
        connection, _ = listener.accept()
        onward = socket.create_connection(("127.0.0.1", int(receiver.address.rpartition(":")[2])))
        for end in (network.enter_context(connection), network.enter_context(onward)):
            end.settimeout(0.01)
        passed = b""
        while receiver.accounts.sent == 0:
            passed += _pass_on(connection, onward) + _pass_on(onward, connection)
            if sender.sent == 0 and sender.wait_for_room(0.0):
                sender.send(example_rollout(plain_layout(), actor_id="a-telling-name"))
            receiver.receive(0.0)
        seen[name] = b"a-telling-name" in passed
    assert seen == {"clear": True, "encrypted": False}


def _pass_on(source: socket.socket, target: socket.socket) -> bytes:
    try:
        data = source.recv(2**16)
    except TimeoutError:
        return b""
    target.sendall(data)
    return data


def test_keys_are_readable_by_their_owner_only_and_created_once(tmp_path: Path) -> None:
    keys = keep_learner_keys(tmp_path)
    for name in (LEARNER_KEY_NAME, ACTOR_KEY_NAME):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert keep_learner_keys(tmp_path) == keys
    assert read_actor_keys(tmp_path / ACTOR_KEY_NAME).learner_public_key == keys.public_key
    assert sorted(path.name for path in tmp_path.iterdir()) == [ACTOR_KEY_NAME, LEARNER_KEY_NAME]
    assert keys.secret_key not in f"{keys!r} {keys}"
    actor = read_actor_keys(tmp_path / ACTOR_KEY_NAME)
    assert actor.secret_key not in f"{actor!r} {actor}"


@pytest.mark.parametrize("content", ["", "{}", "\xff", '{"public_key": "00"}'])
def test_an_invalid_key_file_is_a_configuration_error_without_its_content(tmp_path: Path, content: str) -> None:
    (tmp_path / ACTOR_KEY_NAME).write_text(content, "latin-1")
    with pytest.raises(ConfigurationError, match="is not a key") as caught:
        read_actor_keys(tmp_path / ACTOR_KEY_NAME)
    assert content not in str(caught.value) or not content


def test_a_learner_does_not_replace_broken_keys(tmp_path: Path) -> None:
    keep_learner_keys(tmp_path)
    (tmp_path / LEARNER_KEY_NAME).write_text("{}")
    with pytest.raises(ConfigurationError, match="is not a key"):
        keep_learner_keys(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot write the keys"):
        keep_learner_keys(tmp_path / "missing")


@pytest.mark.parametrize("address", [f"tcp://{host}:5555" for host in ("0.0.0.0", "192.0.2.1", "[::]", "host")])
def test_rollouts_leave_this_machine_only_encrypted(address: str) -> None:
    with pytest.raises(ConfigurationError, match="only encrypted"):
        ZmqReceiver(address, plain_layout(), RUN_ID)
    with pytest.raises(ConfigurationError, match="only encrypted"):
        ZmqSender(address, RUN_ID, "actor-0")


def test_local_addresses_need_no_key(network: Network) -> None:
    for address in ("tcp://127.0.0.1:0", "tcp://[::1]:0", fresh_address()):
        if "[" in address and not socket.has_ipv6:
            continue
        receiver = network.receiver(address)
        assert network.sender(receiver.address).send(ROLLOUT)
        assert receiver.receive(PATIENCE_S) is not None


def test_an_actor_trusts_its_given_key(tmp_path: Path) -> None:
    run, other = (RunDirectory(tmp_path / name).create().path for name in ("run", "other"))
    public_key = keep_learner_keys(run).public_key
    other_public_key = keep_learner_keys(other).public_key
    copy = tmp_path / "copy.key"
    copy.write_bytes((run / ACTOR_KEY_NAME).read_bytes())
    assert choose_actor_keys(None, run, None) is None
    assert choose_actor_keys(None, run, public_key) == read_actor_keys(copy)
    assert choose_actor_keys(copy, other, public_key) == read_actor_keys(copy)
    with pytest.raises(ConfigurationError, match="in the clear"):  # even if another process wrote run.json
        choose_actor_keys(copy, run, None)
    with pytest.raises(ConfigurationError, match="is not the key of the run"):
        choose_actor_keys(copy, run, other_public_key)
    (run / ACTOR_KEY_NAME).unlink()
    with pytest.raises(ConfigurationError, match="--transport-key FILE"):
        choose_actor_keys(None, run, public_key)


def test_an_actor_without_the_key_fails_with_one_line(tmp_path: Path) -> None:
    run = publish_run(tmp_path / "run", "CartPole-v1", onnx=False)
    config = run.run_config()
    assert config is not None
    run.write_run_config(msgspec.structs.replace(config, address="tcp://192.0.2.1:5555"))
    with run.lock_learner():
        command = [sys.executable, "-m", "actor.run", "--env=CartPole-v1", f"--run-dir={run.path}"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()  # before it waits for a policy, which could log a line
    assert line.startswith("python -m actor.run: ")
    assert "--transport-key FILE" in line
    assert not done.stdout


@pytest.mark.parametrize("address", ["ipc://x", "tcp://0.0.0.0", "tcp://0.0.0.0:0", "tcp://0.0.0.0:*", "tcp://:1", "x"])
def test_an_invalid_listen_address_fails_with_one_line(tmp_path: Path, address: str) -> None:
    from rl_hotswap.cli.train import command as main

    assert main([f"--run-dir={tmp_path / 'run'}", f"--listen={address}"]) == 2
