"""The sandbox: programs that this actor has not run before run in a process apart first.

A program that passes is recorded by its digest, in memory and in a cache that later actors read. Importable policies
are exempt: their code is installed here, and the user trusts its module by name.
"""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

import shared.errors
from actor.sandbox.sandbox_process import SandboxReply, SandboxRequest
from actor.sandbox.side_process import SandboxClient, SandboxEnded
from actor.verification.version_checks import is_out_of_memory
from shared.engines.engine import EngineKind
from shared.errors import PermanentLoadError, ProgramError, TransientLoadError
from shared.files.small_files import forget_oldest, write_whole

_LIBRARIES: dict[EngineKind, str] = {"llvm": "llvmlite", "onnx": "onnxruntime", "torchscript": "torch", "aot": "torch"}
_MOST_RECORDS = 1000
_BYTES_PER_S = 20 * 2**20


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """The limits of a program in the sandbox.

    Args:
        timeout_s: seconds for one program; a large one gets more.
        memory_bytes: bytes of memory in addition to its files.
        times_slower: the most times that a call may take the fastest call so far, if it takes more than ``call_s``.
        call_s: seconds that any call may take.
    """

    timeout_s: float = 20.0
    memory_bytes: int = 2 * 2**30
    times_slower: float = 50.0
    call_s: float = 5e-4


class _Record(msgspec.Struct, frozen=True):
    """A record counts only for the library version and the machine that it names; ``call_s`` is the fastest call."""

    call_s: float
    library: str
    machine: str


class SandboxCache:
    """One small file for each engine, program and batch size in ``directory``; only its user should be able to write.

    Errors of the disk are ignored: a program without a readable record runs in the sandbox again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def call_s(self, kind: EngineKind, program_digest: str, batch_size: int) -> float | None:
        """Return the seconds of a call when the program passed, or None without a record that counts here."""
        with suppress(OSError, msgspec.DecodeError):
            data = (self._directory / _name(kind, program_digest, batch_size)).read_bytes()
            record = msgspec.json.decode(data, type=_Record)
            if record == _record(kind, record.call_s):
                return record.call_s
        return None

    def knows_any(self, kind: EngineKind) -> bool:
        """Return True when any program of ``kind`` has a record."""
        with suppress(OSError):
            return next(self._directory.glob(f"{kind}-*"), None) is not None
        return False

    def add(self, kind: EngineKind, program_digest: str, batch_size: int, call_s: float) -> None:
        """Record that a program passed, and delete the oldest of more than 1000 records."""
        with suppress(OSError):
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = msgspec.json.encode(_record(kind, call_s))
            write_whole(self._directory, _name(kind, program_digest, batch_size), data)
            forget_oldest(self._directory, _MOST_RECORDS)


class ProgramSandbox:
    """Runs programs in one sandbox process, which starts when it is first needed. For the loader thread only."""

    def __init__(self, limits: SandboxLimits, *, batch_size: int, cache: SandboxCache | None = None) -> None:
        self._limits = limits
        self._batch_size = batch_size
        self._cache = cache
        self._passed: dict[tuple[EngineKind, str], float] = {}
        self._suspected: set[tuple[EngineKind, str]] = set()
        self._client: SandboxClient | None = None

    def prepare(self, kind: EngineKind) -> None:
        """Start the process unless the cache knows programs of ``kind``. Raise TransientLoadError if that fails."""
        if self._cache is None or not self._cache.knows_any(kind):
            self.start(kind)

    def start(self, kind: EngineKind) -> None:
        """Start the process, which imports the library of ``kind``. Raise TransientLoadError if that fails."""
        if self._client is not None and self._client.process.is_gone:
            self.close()  # it ended between two programs
        if self._client is None and kind in _LIBRARIES:
            self._client = SandboxClient(kind)

    def has_passed(self, kind: EngineKind, program_digest: str) -> bool:
        """Return True when the program passed before, or is of a kind that needs no sandbox."""
        if kind not in _LIBRARIES or (kind, program_digest) in self._passed:
            return True
        call_s = None if self._cache is None else self._cache.call_s(kind, program_digest, self._batch_size)
        if call_s is not None:
            self._passed[kind, program_digest] = call_s
        return call_s is not None

    def verify(self, kind: EngineKind, program_digest: str, manifest_bytes: bytes, files: Mapping[str, bytes]) -> None:
        """Run a program in the sandbox, unless it has passed. ``files`` are verified: program, weights and probe.

        Raises:
            ProgramError: the program hangs, crashes, needs too much memory or is far too slow.
            PermanentLoadError: the program itself raised it.
            TransientLoadError: the process ended, and the program may not be the cause.
        """
        if self.has_passed(kind, program_digest):
            return
        memory_bytes = self._limits.memory_bytes + 16 * sum(map(len, files.values()))
        request = SandboxRequest(kind, manifest_bytes, dict(files), self._batch_size, memory_bytes)
        reply = self._request(kind, program_digest, request)
        if reply.error is not None:
            raise _as_raised(reply, memory_bytes)
        self._check_speed(reply.call_s)
        self._passed[kind, program_digest] = reply.call_s
        if self._cache is not None:
            self._cache.add(kind, program_digest, self._batch_size, reply.call_s)

    def cancel(self) -> None:
        """End a ``verify`` in progress. Any thread may call this."""
        if (client := self._client) is not None:
            client.process.kill()  # the request in progress raises SandboxEnded

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _request(self, kind: EngineKind, program_digest: str, request: SandboxRequest) -> SandboxReply:
        self.start(kind)
        assert self._client is not None
        data = msgspec.msgpack.encode(request)
        try:
            return self._client.request(data, self._limits.timeout_s + len(data) / _BYTES_PER_S)
        except SandboxEnded as ended:
            self.close()
            # A program that may be the cause gets a second attempt; then it is the cause.
            is_sure = ended.is_crash or (kind, program_digest) in self._suspected
            self._suspected.add((kind, program_digest))
            raise (ProgramError if is_sure else TransientLoadError)(str(ended)) from ended

    def _check_speed(self, call_s: float) -> None:
        fastest_s = min(self._passed.values(), default=call_s)
        times = call_s / fastest_s
        if times > self._limits.times_slower and call_s > self._limits.call_s:
            raise ProgramError(
                f"a call takes {call_s * 1e3:.3g} ms at batch size {self._batch_size}, {times:.0f} times as long as "
                f"with a program seen before; expected at most {self._limits.times_slower:g} times"
            )


def _as_raised(reply: SandboxReply, memory_bytes: int) -> Exception:
    if reply.error == "MemoryError" or is_out_of_memory(Exception(reply.message)):
        return ProgramError(f"needs more than the {memory_bytes / 2**30:.1f} GiB of memory that the sandbox allows")
    kind = getattr(shared.errors, reply.error or "", None)
    if isinstance(kind, type) and issubclass(kind, PermanentLoadError):
        return kind(reply.message)
    return ProgramError(f"{reply.error}: {reply.message}")


def _name(kind: EngineKind, program_digest: str, batch_size: int) -> str:
    return f"{kind}-{program_digest}-{batch_size}.json"


def _record(kind: EngineKind, call_s: float) -> _Record:
    library, installed = _LIBRARIES[kind], "?"
    with suppress(PackageNotFoundError):
        installed = version(library)
    return _Record(call_s, f"{library} {installed}", f"{platform.node()} {platform.machine()}")
