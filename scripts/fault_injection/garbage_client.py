"""Clients at the learner's socket that send garbage, or well-formed rollouts that must be rejected."""

import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from scripts.fault_injection.invariants import Invariants
from shared.errors import HotswapError
from shared.rollouts.rollout import EpisodeEnds, Rollout, RolloutHeader, RolloutLayout
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.transport.addresses import LOCAL_ADDRESS, resolve_address
from shared.transport.transport_keys import ACTOR_KEY_NAME, read_actor_keys
from shared.transport.zmq_sender import ZmqSender

_CONNECTIONS = 8
_BYTES_EACH = 2**18
_SOCKET_TIMEOUT_S = 0.2

# ZMTP 3.0 (https://rfc.zeromq.org/spec/23/): signature, version, mechanism PLAIN, no server; then, with the password,
# INITIATE as a DEALER.
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"PLAIN".ljust(20, b"\0") + bytes(32)
_INITIATE = b"\x08INITIATE\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"

_ENVS = 2
_SEND_TIMEOUT_S = 0.3
_REJECTED_WITHIN_S = 10.0
_POLL_S = 0.05


def flood(run: Path, generator: np.random.Generator) -> int:
    """Send garbage to the learner of ``run``, half of it after a valid handshake; return the number of bytes sent."""
    sent = 0
    password = read_actor_keys(run / ACTOR_KEY_NAME).password
    for number in range(_CONNECTIONS):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_SOCKET_TIMEOUT_S)
            client.connect(resolve_address(LOCAL_ADDRESS, run).removeprefix("ipc://"))
            if number % 2:
                shake_hands(client, password)
            while sent < (number + 1) * _BYTES_EACH:
                sent += client.send(_frame(generator) if number % 2 else generator.bytes(4096))
    return sent


def shake_hands(client: socket.socket, password: str) -> None:
    """Authenticate as an actor on a connection that has just begun."""
    secret = password.encode()
    client.sendall(_GREETING + _command(b"\x05HELLO\x05actor" + bytes([len(secret)]) + secret))
    received = b""
    while b"WELCOME" not in received:
        received += (data := client.recv(4096))
        if not data:
            raise ConnectionError("the learner has closed the connection")
    client.sendall(_command(_INITIATE))


def _command(body: bytes) -> bytes:
    return b"\x04" + bytes([len(body)]) + body


def _frame(generator: np.random.Generator) -> bytes:
    body = generator.bytes(int(generator.integers(0, 256)))
    return bytes([int(generator.integers(0, 2)), len(body)]) + body


INVALID = (
    *("wrong shape", "another run", "value that is not finite", "observation that is not finite"),
    *("huge reward", "impossible log-probability", "impossible return"),
)
"""Flaws of invalid rollouts; each is well-formed otherwise."""


def _rollout(config: RunConfig, kind: str, actor_id: str) -> Rollout:
    run_id = "another" if kind == "another run" else config.run_id
    ends = EpisodeEnds([1e30], [10], [0]) if kind == "impossible return" else EpisodeEnds([], [], [])
    header = RolloutHeader(run_id, actor_id, 0, 0, "0" * 64, 0, 0, time.time(), ends)
    layout = RolloutLayout(config.signature, config.rollout_length + (kind == "wrong shape"))
    rollout = layout.allocate(_ENVS, header)
    if kind == "value that is not finite":
        rollout.reward[0, 0] = np.nan
    elif kind == "observation that is not finite":
        rollout.observation[0].fill(np.inf)
    elif kind == "huge reward":
        rollout.reward[0, 0] = 3e38
    elif kind == "impossible log-probability":
        rollout.behaviour_log_prob[0, 0] = -3e38
    return rollout


def send_invalid(run: Path, config: RunConfig, kind: str, timeout_s: float = _SEND_TIMEOUT_S) -> bool:
    """Send a rollout of ``kind`` to the learner of ``run``; return False if it was not accepted in time."""
    actor_id = f"chaos-{secrets.token_hex(4)}"
    address, keys = resolve_address(config.address, run), read_actor_keys(run / ACTOR_KEY_NAME)
    sender = ZmqSender(address, config.run_id, actor_id, keys=keys, learner_timeout_s=timeout_s + 2.0)
    try:
        return sender.wait_for_room(timeout_s) and sender.send(_rollout(config, kind, actor_id))
    finally:
        sender.close()


class InvalidRollouts:
    """Invalid rollouts of a chaos run. The learner may count as many rollouts as invalid as were sent, and no more."""

    def __init__(self, run: RunDirectory, invariants: Invariants) -> None:
        self.sent = 0
        self._run = run
        self._invariants = invariants

    def send(self, kind: str, timeout_s: float = _SEND_TIMEOUT_S) -> bool:
        """Send one rollout to the current learner; return False if it was not accepted."""
        try:
            config = self._run.run_config()
            sent = config is not None and send_invalid(self._run.path, config, kind, timeout_s)
        except HotswapError:
            return False
        self.sent += sent
        return sent

    def check_rejection(self) -> None:
        """Send one rollout of each kind to an undisturbed learner and check that it counts all as invalid."""
        before = self._invalid()
        sent = sum(self.send(kind, _REJECTED_WITHIN_S) for kind in INVALID)
        deadline_s = time.monotonic() + _REJECTED_WITHIN_S
        while self._invalid() < before + sent and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        counted = self._invalid() - before
        detail = f"{len(INVALID)} prepared, {sent} accepted by the socket, {counted} counted as invalid"
        self._invariants.check("invalid rollouts are rejected", counted >= sent == len(INVALID), detail)

    def check_count(self, count: int) -> None:
        """Check the final ``count`` of invalid rollouts; some may be lost with a killed learner."""
        detail = f"{count} rollouts were invalid, {self.sent} were sent"
        self._invariants.check("rollout accounts balance", count <= self.sent, detail)

    def _invalid(self) -> int:
        progress = self._run.progress()
        return 0 if progress is None else progress.rollouts.invalid
