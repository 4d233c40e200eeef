"""Another user of this machine, as a process that attacks a run (``-m tests.support.second_user``).

It imports what it needs as root, gives up its rights for good, and makes one attack for each line of its input. Its
answer says whether it achieved anything that it can see; the test looks at the learner.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zmq
from zmq.utils.monitor import parse_monitor_message

from shared.rollouts.rollout_codec import encode_rollout
from shared.transport import messages
from shared.transport.messages import Bye, Hello, Sender, Sending
from shared.transport.transport_keys import make_keys
from tests.support.paths import REPOSITORY
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout

NOBODY = 65534
FORGED_LINE = "2026-01-01 00:00:00.000 | INFO     | learner - a forged line"
_PATIENCE_MS = 10_000
_LIFETIME_S = 100  # also if the test is killed
_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)
_OUTCOMES = _REFUSALS | zmq.EVENT_HANDSHAKE_SUCCEEDED
_CONNECTIONS = 50


class SecondUser:
    """The process, for the test that owns the run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.second_user"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def attack(self, name: str, target: str, **known: str) -> str:
        """Return what the attack achieved, "" for nothing. ``known`` are names from logs and accounts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": name, "target": target, "known": known}) + "\n")
        self._process.stdin.flush()
        return str(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _drop_rights() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _attempts(known: dict[str, str]) -> list[Callable[["zmq.Socket[bytes]"], None]]:
    """Return the ways to connect: without a key, with a guessed password, with a key of its own."""
    keys = make_keys()[1]

    def use_password(password: str) -> Callable[["zmq.Socket[bytes]"], None]:
        def use(client: "zmq.Socket[bytes]") -> None:
            client.plain_username, client.plain_password = FORGED_LINE.encode(), password.encode()

        return use

    def use_own_key(client: "zmq.Socket[bytes]") -> None:
        client.curve_serverkey = bytes.fromhex(known["learner_public_key"])
        client.curve_publickey = bytes.fromhex(keys.public_key)
        client.curve_secretkey = bytes.fromhex(keys.secret_key)

    guesses = [known["run_id"], known["session_id"], known["learner_public_key"], keys.password]
    return [lambda client: None, *map(use_password, guesses), use_own_key]


def _send(target: str, known: dict[str, str], frames: list[list[bytes]]) -> str:
    """Send messages on a connection of each kind, and wait until all are refused."""
    if target.startswith("ipc"):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(target.removeprefix("ipc://"))
        except PermissionError:
            return ""
    for attempt in _attempts(known):
        context = zmq.Context()
        client = context.socket(zmq.DEALER)
        client.setsockopt(zmq.RECONNECT_IVL, _PATIENCE_MS)
        attempt(client)
        monitor = client.get_monitor_socket(_OUTCOMES)
        client.connect(target)
        for message in frames:
            with contextlib.suppress(zmq.Again):
                client.send_multipart(message, zmq.NOBLOCK)
        if not monitor.poll(_PATIENCE_MS):
            return "the connection was neither refused nor closed"
        event = parse_monitor_message(monitor.recv_multipart())["event"]
        answered = client.poll(0)
        context.destroy(linger=0)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED or answered:
            return "the learner accepted the connection"
    return ""


def _as_messages(name: str, known: dict[str, str]) -> list[list[bytes]]:
    """Return the messages of an attack on the accounts. It knows every name, but no secret."""
    victim = Sender(known["run_id"], known["actor_id"], known["session_id"])
    own = Sender(known["run_id"], "second-user", secrets.token_hex(16))
    rollout = encode_rollout(example_rollout(plain_layout(), actor_id="second-user"))
    attacks: dict[str, list[list[bytes]]] = {
        "stop a training": [[messages.encode(Bye(victim, 10))]],
        "inject rollouts": [[messages.encode(Hello(own, 0))], [messages.encode(Sending(own, 0)), *rollout]],
        "announce counts": [[messages.encode(Hello(victim, 1000))]],
        "write into the log": [[messages.encode(Hello(Sender(known["run_id"], f"\n{FORGED_LINE}", "t"), 0))]],
        "impersonate an actor": [[messages.encode(Hello(Sender(known["run_id"], known["actor_id"], "t"), 0))]],
        "flood with frames": [[messages.encode(Sending(own, 0)), *[b""] * 50_000, *[bytes(2**20)] * 50]],
    }
    return attacks[name]


def _exhaust_sessions(target: str, known: dict[str, str]) -> str:
    for number in range(_CONNECTIONS):
        hello = [[messages.encode(Hello(Sender(known["run_id"], f"many-{number}", str(number)), 1))]]
        if achieved := _send(target, known, hello):
            return achieved
    return ""


def _read(directory: str, known: dict[str, str]) -> str:
    """Read the run; ``only_secrets`` if its permissions were lost, except those of the keys."""
    names = ["learner.key", "actor.key"]
    if not known.get("only_secrets"):
        names += ["run.json", "options.json", "arrivals.jsonl", "logs", "policies", "checkpoints", "."]
    for name in names:
        path = Path(directory, name)
        with contextlib.suppress(PermissionError):
            _ = list(path.iterdir()) if path.is_dir() else path.read_bytes()
            return f"{name} can be read"
    return ""


def _squat(target: str, known: dict[str, str]) -> str:
    """Take the address of a learner that was killed."""
    path = Path(target.removeprefix("ipc://"))
    moves = [path.unlink, partial(path.rename, path.with_name("x")), partial(path.parent.rename, path.parents[1] / "x")]
    for step in moves:
        with contextlib.suppress(OSError):
            step()
            return "the socket was moved"
    with socket.socket(socket.AF_UNIX) as own, contextlib.suppress(OSError):
        own.bind(str(path))
        return "the address was taken"
    with socket.socket(socket.AF_UNIX) as own, contextlib.suppress(OSError):
        own.bind("\0rl-hotswap-" + known["run_id"])  # the address of the last release
    return ""


def _attack(name: str, target: str, known: dict[str, str]) -> str:
    match name:
        case "exhaust sessions":
            return _exhaust_sessions(target, known)
        case "read the run":
            return _read(target, known)
        case "squat the address":
            return _squat(target, known)
    return _send(target, known, _as_messages(name, known))


def main() -> None:
    """Answer attacks until the end of the input."""
    example_rollout(plain_layout())
    signal.alarm(_LIFETIME_S)
    _drop_rights()
    for line in sys.stdin:
        request = json.loads(line)
        known = {"run_id": RUN_ID, **request["known"]}
        print(json.dumps(_attack(request["name"], request["target"], known)), flush=True)


if __name__ == "__main__":
    main()
