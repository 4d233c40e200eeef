"""Who has not the run's key reads nothing, sends nothing, and is named; those who have it go on."""

import contextlib
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from loguru import logger

from shared.errors import ConfigurationError
from shared.rollouts.rollout_accounts import RolloutAccounts
from shared.run.run_directory import RunDirectory
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport_keys import (
    ACTOR_KEY_NAME,
    LEARNER_KEY_NAME,
    ActorKeys,
    LearnerKeys,
    choose_actor_keys,
    keep_learner_keys,
    make_keys,
    read_actor_keys,
)
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.paths import REPOSITORY
from tests.support.published_run import publish_run
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.transport_cases import fresh_address
from tests.support.waiting import PATIENCE_S, until

TIMEOUT_S = 0.5
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


def open_receiver(stack: contextlib.ExitStack, keys: LearnerKeys | None) -> ZmqReceiver:
    receiver = ZmqReceiver("tcp://127.0.0.1:0", plain_layout(), RUN_ID, ReceiverOptions(heartbeat_s=0.02), keys=keys)
    stack.callback(receiver.close)
    return receiver


def open_sender(
    stack: contextlib.ExitStack, address: str, keys: ActorKeys | None, actor_id: str = "actor-0"
) -> ZmqSender:
    sender = ZmqSender(address, RUN_ID, actor_id, learner_timeout_s=TIMEOUT_S, keys=keys)
    stack.callback(sender.close)
    return sender


def stranger(case: str, right: ActorKeys) -> ActorKeys | None:
    """The keys of somebody who is not of this run."""
    _, other = make_keys()
    match case:
        case "no key":
            return None
        case "another learner's key":
            return other
        case _:  # it knows the learner's public key, as everybody may who reads run.json
            return msgspec.structs.replace(other, learner_public_key=right.learner_public_key)


@pytest.mark.parametrize(
    ("case", "complaint", "its_own_complaint"),
    [
        ("no key", "no key", "learner does not answer"),
        ("another learner's key", "no key, or one for another learner", "does not have the key of the learner"),
        ("a key of its own", "is not that of the actors of this run", "refuses the key of this actor"),
    ],
)
def test_who_has_not_the_key_is_refused_and_named_and_the_honest_go_on(
    stack: contextlib.ExitStack, log: list[str], case: str, complaint: str, its_own_complaint: str
) -> None:
    learner_keys, actor_keys = make_keys()
    receiver = open_receiver(stack, learner_keys)
    keys = stranger(case, actor_keys)
    refused = open_sender(stack, receiver.address, keys, "stranger")
    honest = open_sender(stack, receiver.address, actor_keys, "honest")
    for _ in range(3):
        assert honest.send(example_rollout(plain_layout(), actor_id="honest"))
        rollout = receiver.receive(PATIENCE_S)
        assert rollout is not None
        receiver.count_learned(rollout)
    assert not refused.send(ROLLOUT)  # it waits until it believes the learner away, and counts the rollout as lost
    assert receiver.accounts == RolloutAccounts(sent=3, learned=3)
    # Without a key that can be judged, the connection may be gone before its other end can be asked for.
    peer = "127.0.0.1" if case == "a key of its own" else ""
    refusals = until(lambda: [line for line in log if f"connection refused peer={peer}" in line])
    assert complaint in refusals[0]
    if case == "a key of its own":
        assert keys is not None
        assert keys.public_key in refusals[0]
    assert any(its_own_complaint in line for line in log), log
    assert receiver.live_senders == 1


def test_a_learner_that_comes_back_takes_the_same_key(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    receiver = open_receiver(stack, keep_learner_keys(tmp_path))
    address = receiver.address
    sender = open_sender(stack, address, read_actor_keys(tmp_path / ACTOR_KEY_NAME))
    assert sender.send(ROLLOUT)
    receiver.close()
    until(lambda: not sender.learner_alive)
    again = ZmqReceiver(
        address, plain_layout(), RUN_ID, ReceiverOptions(heartbeat_s=0.02), keys=keep_learner_keys(tmp_path)
    )
    stack.callback(again.close)
    until(lambda: sender.send(ROLLOUT))
    assert again.receive(PATIENCE_S) is not None


def test_what_travels_cannot_be_read(stack: contextlib.ExitStack) -> None:
    """A man in the middle who passes everything on finds no word of it."""
    learner_keys, actor_keys = make_keys()
    seen = {}
    for name, keys in (("clear", (None, None)), ("encrypted", (learner_keys, actor_keys))):
        receiver = open_receiver(stack, keys[0])
        context = zmq.Context()
        stack.callback(context.destroy, 0)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = open_sender(stack, f"tcp://127.0.0.1:{listener.getsockname()[1]}", keys[1], "a-telling-name")
        connection, _ = listener.accept()
        onward = socket.create_connection(("127.0.0.1", int(receiver.address.rpartition(":")[2])))
        for end in (stack.enter_context(connection), stack.enter_context(onward)):
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


def test_keys_are_for_their_owner_only_and_are_made_once(tmp_path: Path) -> None:
    keys = keep_learner_keys(tmp_path)
    for name in (LEARNER_KEY_NAME, ACTOR_KEY_NAME):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert keep_learner_keys(tmp_path) == keys
    assert read_actor_keys(tmp_path / ACTOR_KEY_NAME).learner_public_key == keys.public_key
    assert sorted(path.name for path in tmp_path.iterdir()) == [ACTOR_KEY_NAME, LEARNER_KEY_NAME]


@pytest.mark.parametrize("content", ["", "{}", "\xff", '{"public_key": "00"}'])
def test_what_is_no_key_is_a_mistake_of_configuration_that_tells_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / ACTOR_KEY_NAME).write_text(content, "latin-1")
    with pytest.raises(ConfigurationError, match="is not a key") as caught:
        read_actor_keys(tmp_path / ACTOR_KEY_NAME)
    assert content not in str(caught.value) or not content


def test_a_learner_does_not_go_on_with_other_keys_where_its_own_are_broken(tmp_path: Path) -> None:
    keep_learner_keys(tmp_path)
    (tmp_path / LEARNER_KEY_NAME).write_text("{}")
    with pytest.raises(ConfigurationError, match="is not a key"):
        keep_learner_keys(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot write the keys"):
        keep_learner_keys(tmp_path / "missing")


def test_secrets_are_not_printed() -> None:
    for keys in make_keys():
        assert keys.secret_key not in repr(keys)
        assert keys.secret_key not in str(keys)


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5555", "tcp://192.0.2.1:5555", "tcp://[::]:5555", "tcp://host:5555"]
)
def test_nothing_leaves_this_machine_in_the_clear(address: str) -> None:
    with pytest.raises(ConfigurationError, match="only encrypted"):
        ZmqReceiver(address, plain_layout(), RUN_ID)
    with pytest.raises(ConfigurationError, match="only encrypted"):
        ZmqSender(address, RUN_ID, "actor-0")


def test_what_stays_here_needs_no_key(stack: contextlib.ExitStack) -> None:
    for address in ("tcp://127.0.0.1:0", "tcp://[::1]:0", fresh_address()):
        if "[" in address and not socket.has_ipv6:
            continue
        receiver = ZmqReceiver(address, plain_layout(), RUN_ID, ReceiverOptions(heartbeat_s=0.02))
        stack.callback(receiver.close)
        assert open_sender(stack, receiver.address, None).send(ROLLOUT)
        assert receiver.receive(PATIENCE_S) is not None


def test_an_actor_trusts_the_key_that_it_was_given(tmp_path: Path) -> None:
    run, other = (RunDirectory(tmp_path / name).create().path for name in ("run", "other"))
    public_key = keep_learner_keys(run).public_key
    other_public_key = keep_learner_keys(other).public_key
    copy = tmp_path / "copy.key"
    copy.write_bytes((run / ACTOR_KEY_NAME).read_bytes())
    assert choose_actor_keys(None, run, None) is None
    assert choose_actor_keys(None, run, public_key) == read_actor_keys(copy)
    assert choose_actor_keys(copy, other, public_key) == read_actor_keys(copy)
    with pytest.raises(ConfigurationError, match="in the clear"):  # whoever can write run.json cannot talk it into this
        choose_actor_keys(copy, run, None)
    with pytest.raises(ConfigurationError, match="is not the key of the run"):
        choose_actor_keys(copy, run, other_public_key)
    (run / ACTOR_KEY_NAME).unlink()
    with pytest.raises(ConfigurationError, match="--transport-key FILE"):
        choose_actor_keys(None, run, public_key)


def test_an_actor_without_the_key_says_so_in_one_line(tmp_path: Path) -> None:
    run = publish_run(tmp_path / "run", "CartPole-v1", onnx=False)
    config = run.run_config()
    assert config is not None
    run.write_run_config(msgspec.structs.replace(config, address="tcp://192.0.2.1:5555"))
    with run.lock_learner():
        done = subprocess.run(
            [sys.executable, "-m", "actor.run", "--env=CartPole-v1", f"--run-dir={run.path}"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()  # told before a policy is waited for, which could be a line more
    assert line.startswith("python -m actor.run: ")
    assert "--transport-key FILE" in line
    assert not done.stdout


@pytest.mark.parametrize("address", ["ipc://x", "tcp://0.0.0.0", "tcp://0.0.0.0:0", "tcp://0.0.0.0:*", "tcp://:1", "x"])
def test_a_learner_told_to_listen_nowhere_says_so_in_one_line(tmp_path: Path, address: str) -> None:
    from rl_hotswap.cli.train import command as main

    assert main([f"--run-dir={tmp_path / 'run'}", f"--listen={address}"]) == 2
