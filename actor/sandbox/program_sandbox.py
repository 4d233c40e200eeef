"""Tries programs that this actor has never seen before in a process of their own, which they may hang, crash or fill.

What has passed there once is known by its digest, and loaded straight away from then on; where it is remembered, by
actors that are started later, too. Importable policies are not tried: their code was installed here, and allowed by
name.
"""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

import shared.errors
from actor.sandbox.sandbox_cache import SandboxCache
from actor.sandbox.sandbox_process import BEGUN, SandboxReply, SandboxRequest, send_request
from actor.sandbox.side_process import SideProcess
from actor.verification.probe_verifier import is_out_of_memory
from shared.engines.engine import EngineKind
from shared.errors import PermanentLoadError, ProgramError, TransientLoadError

_TRIED_KINDS: tuple[EngineKind, ...] = ("llvm", "onnx", "torchscript", "aot")
_START_S = 300.0  # what the interpreter and an engine's imports may take on a machine that is busy with much else
_BYTES_PER_S = 20 * 2**20
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What a program may need while it is tried: seconds (more for a large one), and bytes of memory beside its own.

    ``times_slower``: how much longer than the fastest program seen so far a call may take, once it takes more than
    ``call_s``.
    """

    timeout_s: float = 20.0
    memory_bytes: int = 2 * 2**30
    times_slower: float = 50.0
    call_s: float = 5e-4


class ProgramSandbox:
    """One process that stays, started when it is first needed or by ``start``. Belongs to one thread: the loader's."""

    def __init__(self, limits: SandboxLimits, *, batch_size: int, tried: SandboxCache | None = None) -> None:
        """``tried``: what has passed before, on this machine."""
        self._limits = limits
        self._batch_size = batch_size
        self._passed: dict[tuple[EngineKind, str], float] = {}
        self._tried = tried
        self._silent: set[tuple[EngineKind, str]] = set()
        self._process: _SandboxProcess | None = None

    def prepare(self, first: EngineKind) -> None:
        """Start the process before anything is asked of it, unless programs of ``first`` are remembered: if the next
        one is another, that waits for the process. Raises TransientLoadError.
        """
        if self._tried is None or not self._tried.knows_any(first):
            self.start(first)

    def start(self, first: EngineKind) -> None:
        """Start the process, with what ``first`` needs imported. Raises TransientLoadError."""
        if self._process is not None and self._process.is_gone:
            self.close()  # by no fault of anything that is being tried
        if self._process is None and first in _TRIED_KINDS:
            self._process = _SandboxProcess(first)

    def has_passed(self, kind: EngineKind, program_digest: str) -> bool:
        """Whether there is nothing to try: it was tried before, or is of a kind that never is."""
        if kind not in _TRIED_KINDS or (kind, program_digest) in self._passed:
            return True
        call_s = None if self._tried is None else self._tried.call_s(kind, program_digest, self._batch_size)
        if call_s is not None:
            self._passed[kind, program_digest] = call_s
        return call_s is not None

    def require(self, kind: EngineKind, program_digest: str, manifest_bytes: bytes, files: Mapping[str, bytes]) -> None:
        """Try a program, whose bytes have ``program_digest``, with all of its ``files``.

        Raises ProgramError for one that hangs, crashes, needs too much memory or is far too slow, the error that the
        program itself raised, and TransientLoadError where the process went without the program being to blame, or
        perhaps not.
        """
        if self.has_passed(kind, program_digest):
            return
        memory_bytes = self._limits.memory_bytes + 16 * sum(map(len, files.values()))
        request = SandboxRequest(kind, manifest_bytes, dict(files), self._batch_size, memory_bytes)
        reply = self._ask(kind, program_digest, request)
        if reply.error is not None:
            raise _as_raised(reply, memory_bytes)
        self._check_speed(reply.call_s)
        self._passed[kind, program_digest] = reply.call_s
        if self._tried is not None:
            self._tried.passed(kind, program_digest, self._batch_size, reply.call_s)

    def cancel(self) -> None:
        """Have a trial that is under way end at once. Any thread may call this."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _ask(self, kind: EngineKind, program_digest: str, request: SandboxRequest) -> SandboxReply:
        self.start(kind)
        assert self._process is not None
        data = msgspec.msgpack.encode(request)
        timeout_s = self._limits.timeout_s + len(data) / _BYTES_PER_S
        try:
            return self._process.ask(data, timeout_s)
        except _SandboxEnded as ended:
            self.close()
            is_sure = ended.is_crash or (kind, program_digest) in self._silent
            self._silent.add((kind, program_digest))
            raise (ProgramError if is_sure else TransientLoadError)(str(ended)) from ended

    def _check_speed(self, call_s: float) -> None:
        """Speeds of other programs at the same batch size are all that there is to compare with."""
        fastest_s = min(self._passed.values(), default=call_s)
        times = call_s / fastest_s
        if times > self._limits.times_slower and call_s > self._limits.call_s:
            raise ProgramError(
                f"a call takes {call_s * 1e3:.3g} ms at batch size {self._batch_size}, {times:.0f} times as long as "
                f"with a program seen before; expected at most {self._limits.times_slower:g} times"
            )


class _SandboxEnded(Exception):
    """The process ended, or had to be ended. ``is_crash``: by a fault of its own that would come again."""

    def __init__(self, message: str, *, is_crash: bool) -> None:
        super().__init__(message)
        self.is_crash = is_crash


class _SandboxProcess:
    """The process and the socket to it."""

    def __init__(self, first: EngineKind) -> None:
        self._channel, theirs = socket.socketpair()
        try:
            self._process = SideProcess(
                "actor.sandbox.sandbox_process", [str(theirs.fileno()), first], [theirs.fileno()]
            )
        except OSError as error:
            self._channel.close()
            raise TransientLoadError(f"the process that tries programs could not be started: {error}") from error
        finally:
            theirs.close()

    @property
    def is_gone(self) -> bool:
        return self._process.is_gone

    def ask(self, data: bytes, timeout_s: float) -> SandboxReply:
        """Raises _SandboxEnded where there is no answer, and TransientLoadError where it could not be asked."""
        try:
            with _file_of(data) as file:
                self._channel.settimeout(_START_S)
                send_request(self._channel, file.fileno())
                self._receive(len(BEGUN), _START_S)
            size = int.from_bytes(self._receive(4, timeout_s), "little")
            return msgspec.msgpack.decode(self._receive(size, timeout_s), type=SandboxReply)
        except TimeoutError as error:
            message = f"no answer within {timeout_s:.0f} s from the process that tried it"
            raise _SandboxEnded(message, is_crash=False) from error
        except OSError as error:
            raise self._ended() from error

    def kill(self) -> None:
        """It holds nothing that anybody needs. Whoever waits for its answer is told."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and let go of everything."""
        self._channel.close()
        self._process.end()

    def _receive(self, size: int, timeout_s: float) -> bytes:
        received = b""
        deadline_s = time.monotonic() + timeout_s
        while len(received) < size:
            self._channel.settimeout(max(deadline_s - time.monotonic(), 1e-3))
            part = self._channel.recv(size - len(received))
            if not part:
                raise ConnectionResetError("the other side has closed")
            received += part
        return received

    def _ended(self) -> _SandboxEnded:
        how, number = self._process.describe_end()
        if number is None:
            return _SandboxEnded(f"the process that tried it ended with {how}", is_crash=False)
        return _SandboxEnded(f"it killed the process that tried it ({how})", is_crash=number not in _FROM_OUTSIDE)


def _file_of(data: bytes) -> BinaryIO:
    """An open file without a name that holds ``data``: in memory, where the system has such files."""
    try:
        if hasattr(os, "memfd_create"):  # a full disk, or none that may be written to, need not matter
            file: BinaryIO = os.fdopen(os.memfd_create("rl-hotswap"), "wb+")
        else:
            file = tempfile.TemporaryFile(prefix="rl-hotswap-")  # noqa: SIM115
        file.write(data)
        file.seek(0)
    except OSError as error:
        raise TransientLoadError(f"no room for a program that is to be tried: {error}") from error
    return file


def _as_raised(reply: SandboxReply, memory_bytes: int) -> Exception:
    """The error as it would have been raised here."""
    if reply.error == "MemoryError" or is_out_of_memory(Exception(reply.message)):
        return ProgramError(f"needs more than the {memory_bytes / 2**30:.1f} GiB of memory that it may have")
    kind = getattr(shared.errors, reply.error or "", None)
    if isinstance(kind, type) and issubclass(kind, PermanentLoadError):
        return kind(reply.message)
    return ProgramError(f"{reply.error}: {reply.message}")
