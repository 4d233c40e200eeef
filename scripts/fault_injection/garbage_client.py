"""A stranger at the learner's socket, who speaks nonsense: from the first byte on, or after a proper greeting."""

import socket
from contextlib import suppress

import numpy as np

_CONNECTIONS = 8
_BYTES_EACH = 2**18
_TIMEOUT_S = 0.2

# ZMTP 3.0 (https://rfc.zeromq.org/spec/23/): signature, version, mechanism NULL, no server; then READY as a DEALER.
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_PROPERTY = b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
_READY = b"\x05READY" + _PROPERTY
_HANDSHAKE = _GREETING + b"\x04" + bytes([len(_READY)]) + _READY


def flood(address: str, generator: np.random.Generator) -> int:
    """Send garbage to the ipc ``address`` until nobody takes more; the number of bytes that were taken."""
    sent = 0
    for number in range(_CONNECTIONS):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rogue:
            rogue.settimeout(_TIMEOUT_S)
            rogue.connect(address.removeprefix("ipc://").replace("@", "\0", 1))
            if number % 2:
                rogue.sendall(_HANDSHAKE)
            while sent < (number + 1) * _BYTES_EACH:
                sent += rogue.send(_frame(generator) if number % 2 else generator.bytes(4096))
    return sent


def _frame(generator: np.random.Generator) -> bytes:
    """One short message of random bytes, the last of its frames or not."""
    body = generator.bytes(int(generator.integers(0, 256)))
    return bytes([int(generator.integers(0, 2)), len(body)]) + body
