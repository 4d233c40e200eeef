"""Keys of the transport: peers without them neither read nor send, and are logged; other actors continue."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shared.errors import ConfigurationError
from shared.rollouts.rollout import RolloutAccounts
from shared.run.run_directory import RunDirectory
from shared.transport.messages import Bye, Hello, Sender, Sending
from shared.transport.transport_keys import (
    ACTOR_KEY_NAME,
    LEARNER_KEY_NAME,
    choose_actor_keys,
    keep_learner_keys,
    make_keys,
    read_actor_keys,
)
from tests.support.agent_policies import publish_run
from tests.support.captured_logs import CapturedLogs
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.second_user import NOBODY
from tests.support.transport_cases import ACTOR_KEYS, Network, fresh_address, learn
from tests.support.waiting import PATIENCE_S, until

ROLLOUT = example_rollout(plain_layout())
NAME = Sender(RUN_ID, "stranger", "a token")
TCP = "tcp://127.0.0.1:0"
ADDRESSES: dict[str, Callable[[], str]] = {"ipc": fresh_address, "tcp": lambda: TCP}


@pytest.mark.parametrize(
    ("scheme", "case", "warning", "own_warning"),
    [
        ("tcp", "another learner", "no key, or one for another learner", "does not have the key of the learner"),
        ("tcp", "its own", "is not that of the actors of this run", "refuses the key of this actor"),
        ("ipc", "another learner", "is not that of the actors of this run", "refuses the key of this actor"),
        ("ipc", "its own", "is not that of the actors of this run", "refuses the key of this actor"),
    ],
)
def test_a_peer_with_another_key_is_refused_and_logged_and_other_actors_continue(
    network: Network, captured_logs: CapturedLogs, scheme: str, case: str, warning: str, own_warning: str
) -> None:
    receiver = network.receiver(ADDRESSES[scheme]())
    another_key = make_keys()[1]  # the public key of the learner is in run.json, which is no secret
    own_key = msgspec.structs.replace(another_key, learner_public_key=ACTOR_KEYS.learner_public_key)
    refused = network.sender(receiver.address, "stranger", keys=own_key if case == "its own" else another_key)
    other = network.sender(receiver.address, "other")
    for _ in range(3):
        assert other.send(example_rollout(plain_layout(), actor_id="other"))
        learn(receiver)
    assert not refused.send(ROLLOUT)  # it waits for the timeout, and counts the rollout as lost
    assert receiver.accounts == RolloutAccounts(sent=3, learned=3)
    # Without a key to check, the connection may be closed before its peer is known.
    peer = f"uid:{os.getuid()}" if scheme == "ipc" else "127.0.0.1" if case == "its own" else ""
    refusals = until(lambda: [line for line in captured_logs.messages() if f"connection refused peer={peer}" in line])
    assert warning in refusals[0]
    assert scheme == "ipc" or case != "its own" or own_key.public_key in refusals[0]
    assert not any(secret in line for line in captured_logs.messages() for secret in (own_key.password, "a token"))
    assert captured_logs.has(own_warning), captured_logs.messages()
    assert receiver.live_senders == 1


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
@pytest.mark.parametrize("mechanism", ["none", "password", "curve"])
def test_a_bare_peer_is_refused_and_logged(
    network: Network, captured_logs: CapturedLogs, scheme: str, mechanism: str
) -> None:
    receiver = network.receiver(ADDRESSES[scheme]())
    client = network.garbage_client(receiver, authenticated=False)
    if mechanism == "password":
        client.socket.plain_username, client.socket.plain_password = b"actor", b"guess"
    elif mechanism == "curve":
        keys = make_keys()[1]
        client.socket.curve_serverkey = bytes.fromhex(ACTOR_KEYS.learner_public_key)
        client.socket.curve_publickey = bytes.fromhex(keys.public_key)
        client.socket.curve_secretkey = bytes.fromhex(keys.secret_key)
    client.connect()
    for message in (Hello(NAME, 3), Sending(NAME, 7), Bye(NAME, 9)):
        client.send(message)
    until(lambda: captured_logs.has("connection refused"))
    assert receiver.receive(0.1) is None
    assert (receiver.live_senders, receiver.accounts) == (0, RolloutAccounts())
    assert not client.socket.poll(0)


def test_both_ends_compute_the_password_and_others_do_not() -> None:
    learner_keys, actor_keys = make_keys()
    assert learner_keys.password == actor_keys.password
    assert make_keys()[1].password != actor_keys.password
    zero = msgspec.structs.replace(actor_keys, learner_public_key="00" * 32)
    with pytest.raises(ConfigurationError, match="is no public key"):
        _ = zero.password


def test_a_socket_that_others_could_replace_is_refused(network: Network, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o770)
    address = f"ipc://{tmp_path}/run/learner.sock"
    for end in (network.receiver, network.sender):
        with pytest.raises(ConfigurationError, match="chmod go-w"):
            end(address)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")
def test_a_socket_in_the_directory_of_another_user_is_refused(network: Network, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    for end in (network.receiver, network.sender):
        with pytest.raises(ConfigurationError, match=f"belongs to user {NOBODY}, who could take the place"):
            end(f"ipc://{tmp_path}/run/learner.sock")


def test_only_the_owner_connects_to_the_socket(network: Network, tmp_path: Path) -> None:
    before = os.umask(0)
    network.callback(os.umask, before)
    receiver = network.receiver(f"ipc://{tmp_path}/learner.sock")
    assert stat.S_IMODE((tmp_path / "learner.sock").stat().st_mode) == 0o600
    assert network.sender(receiver.address).send(ROLLOUT)


def test_the_directory_of_a_socket_may_be_deep(network: Network, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    receiver = network.receiver(f"ipc://{deep}/learner.sock")
    assert network.sender(receiver.address).send(ROLLOUT)
    learn(receiver)


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


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_rollouts_over_tcp_cannot_be_read_on_the_way(network: Network, tmp_path: Path, scheme: str) -> None:
    """A man in the middle forwards everything and finds plain text on a local socket only."""
    receiver = network.receiver(ADDRESSES[scheme]())
    if scheme == "tcp":
        listener = network.enter_context(socket.create_server(("127.0.0.1", 0)))
        between = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        onward = socket.create_connection(("127.0.0.1", int(receiver.address.rpartition(":")[2])))
    else:
        listener = network.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "between.sock"))
        listener.listen()
        between = f"ipc://{tmp_path}/between.sock"
        onward = socket.socket(socket.AF_UNIX)
        onward.connect(receiver.address.removeprefix("ipc://"))
    sender = network.sender(between, "a-telling-name")
    connection, _ = listener.accept()
    for end in (network.enter_context(connection), network.enter_context(onward)):
        end.settimeout(0.01)
    passed = b""
    while receiver.accounts.sent == 0:
        passed += _pass_on(connection, onward) + _pass_on(onward, connection)
        if sender.sent == 0 and sender.wait_for_room(0.0):
            sender.send(example_rollout(plain_layout(), actor_id="a-telling-name"))
        receiver.receive(0.0)
    assert (b"a-telling-name" in passed) == (scheme == "ipc")


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


def test_an_actor_trusts_its_given_key(tmp_path: Path) -> None:
    run, other = (RunDirectory(tmp_path / name).create().path for name in ("run", "other"))
    public_key = keep_learner_keys(run).public_key
    other_public_key = keep_learner_keys(other).public_key
    copy = tmp_path / "copy.key"
    copy.write_bytes((run / ACTOR_KEY_NAME).read_bytes())
    assert choose_actor_keys(None, run, public_key) == read_actor_keys(copy)
    assert choose_actor_keys(copy, other, public_key) == read_actor_keys(copy)
    with pytest.raises(ConfigurationError, match="run one release on both sides"):
        choose_actor_keys(copy, run, None)
    with pytest.raises(ConfigurationError, match="is not the key of the run"):
        choose_actor_keys(copy, run, other_public_key)
    (run / ACTOR_KEY_NAME).unlink()
    with pytest.raises(ConfigurationError, match="--transport-key FILE"):
        choose_actor_keys(None, run, public_key)
    os.mkfifo(run / ACTOR_KEY_NAME)
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        choose_actor_keys(None, run, public_key)


def test_an_actor_without_the_key_fails_with_one_line(tmp_path: Path) -> None:
    run = publish_run(tmp_path / "run", "CartPole-v1", onnx=False)
    config = run.run_config()
    assert config is not None
    run.write_run_config(msgspec.structs.replace(config, learner_public_key=ACTOR_KEYS.learner_public_key))
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
