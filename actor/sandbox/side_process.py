"""Child processes of the actor, which end with it; one of them runs programs in the sandbox."""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from actor.sandbox.sandbox_process import BEGUN, SandboxReply, SandboxRequest, send_request
from shared.engines.engine import EngineKind
from shared.errors import TransientLoadError
from shared.process.process_guard import Lifeline

_START_S = 300.0  # the interpreter and an engine's imports, on a busy machine
_EXTERNAL_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MOST_REPLY_BYTES = 2**16


class SideProcess:
    """Runs ``python -m module argument …`` without a terminal. The module must call ``die_with_parent`` first.

    ``descriptors`` are open in the child under the same numbers. Raises OSError if the process cannot start.
    """

    def __init__(self, module: str, arguments: Sequence[str], descriptors: Sequence[int]) -> None:
        self._lifeline = Lifeline()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | self._lifeline.environment
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(*descriptors, *self._lifeline.pass_fds),
                env=environment,
            )
        except BaseException:
            self._lifeline.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kill the process and release its resources."""
        self.kill()
        self._process.wait()
        self._lifeline.close()

    def describe_end(self) -> tuple[str, signal.Signals | None]:
        """Wait for the end; return its description (``exit code 1``, or the signal's name) and the signal, if any."""
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}", None
        number = signal.Signals(-code)
        return number.name, number


class SandboxEnded(Exception):
    """The process ended or did not reply. ``is_crash`` is true when the program is certainly the cause."""

    def __init__(self, message: str, *, is_crash: bool) -> None:
        super().__init__(message)
        self.is_crash = is_crash


class SandboxClient:
    """The sandbox process and the socket to it. Raises TransientLoadError when the process cannot start.

    All its programs are for one engine: ``kind``, or the one of the first program.
    """

    def __init__(self, kind: EngineKind) -> None:
        self._kind: EngineKind = kind
        self._has_run = False
        self._channel, theirs = socket.socketpair()
        try:
            descriptor = theirs.fileno()
            self.process = SideProcess("actor.sandbox.sandbox_process", [str(descriptor), kind], [descriptor])
        except OSError as error:
            self._channel.close()
            raise TransientLoadError(f"the sandbox process could not be started: {error}") from error
        finally:
            theirs.close()

    def serves(self, kind: EngineKind) -> bool:
        """Return True if the process can run programs for ``kind``; native code has rights that the others lack."""
        return kind == self._kind or (not self._has_run and "aot" not in (kind, self._kind))

    def request(self, request: SandboxRequest, timeout_s: float) -> SandboxReply:
        """Send a request and return the reply. Raise SandboxEnded or TransientLoadError without one."""
        self._kind, self._has_run = request.kind, True
        try:
            with _file_of(msgspec.msgpack.encode(request)) as file:
                self._channel.settimeout(_START_S)
                send_request(self._channel, file.fileno())
                self._receive(len(BEGUN), _START_S)
            size = int.from_bytes(self._receive(4, timeout_s), "little")
            return _decode(self._receive(min(size, _MOST_REPLY_BYTES), timeout_s))
        except TimeoutError as error:
            message = f"no answer within {timeout_s:.0f} s from the sandbox process"
            raise SandboxEnded(message, is_crash=False) from error
        except OSError as error:
            raise self._ended() from error

    def close(self) -> None:
        """Kill the process and release its resources."""
        self._channel.close()
        self.process.end()

    def _receive(self, size: int, timeout_s: float) -> bytes:
        received = b""
        deadline_s = time.monotonic() + timeout_s
        while len(received) < size:
            self._channel.settimeout(max(deadline_s - time.monotonic(), 1e-3))
            part = self._channel.recv(size - len(received))
            if not part:
                raise ConnectionResetError("the sandbox process closed its socket")
            received += part
        return received

    def _ended(self) -> SandboxEnded:
        end, number = self.process.describe_end()
        if number is None:
            return SandboxEnded(f"the sandbox process ended with {end}", is_crash=False)
        if number == signal.SIGXCPU:
            return SandboxEnded("used more CPU time than the sandbox allows", is_crash=True)
        return SandboxEnded(f"the program killed the sandbox process ({end})", is_crash=number not in _EXTERNAL_SIGNALS)


def _decode(reply: bytes) -> SandboxReply:
    """Return the reply. A program may have taken over the process, so that anything can come back."""
    try:
        decoded = msgspec.msgpack.decode(reply, type=SandboxReply)
    except msgspec.MsgspecError as error:
        raise SandboxEnded(f"the sandbox process sent no valid reply: {error}", is_crash=True) from error
    if decoded.error is None and not 0 < decoded.call_s < math.inf:
        raise SandboxEnded(f"the sandbox process measured {decoded.call_s} seconds", is_crash=True)
    return decoded


def _file_of(data: bytes) -> BinaryIO:
    try:
        if hasattr(os, "memfd_create"):  # in memory: works with a full or read-only disk
            file: BinaryIO = os.fdopen(os.memfd_create("rl-hotswap"), "wb+")
        else:
            file = tempfile.TemporaryFile(prefix="rl-hotswap-")  # noqa: SIM115
        file.write(data)
        file.seek(0)
    except OSError as error:
        raise TransientLoadError(f"no room to send a program to the sandbox: {error}") from error
    return file
