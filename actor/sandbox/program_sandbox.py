"""The sandbox: programs that this actor has not run before run in a process apart first.

A program that passes is recorded, in memory and in a cache that later actors read: by its digest, or by the digest of
the whole content where weights or data steer its work. Importable policies are exempt: their code is installed here,
and the user trusts its module by name.
"""

import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import UNSET

import shared.errors
from actor.sandbox.cache_directory import usable_cache
from actor.sandbox.confinement import ProgramLimits
from actor.sandbox.sandbox_process import SandboxReply, SandboxRequest
from actor.sandbox.side_process import SandboxClient, SandboxEnded
from actor.verification.version_checks import is_out_of_memory
from shared.engines.engine import NATIVE_ENGINES, EngineKind
from shared.engines.load import PROGRAM_OF, Read, check_support, read_program
from shared.errors import PermanentLoadError, ProgramError, TransientLoadError
from shared.files.small_files import forget_oldest, write_whole
from shared.operators.program_check import check_program
from shared.operators.program_trust import PURE_ONLY, ProgramTrust
from shared.policy.manifest import ProgramEntry
from shared.store.version_files import VersionFiles

_LIBRARIES: dict[EngineKind, str] = {
    "llvm": "llvmlite",
    "onnx": "onnxruntime",
    "torchscript": "torch",
    "executorch": "executorch",
    "aot": "torch",
}
_MOST_RECORDS = 1000
_CHECKS = 2  # grows with the checks that a program in the sandbox has to pass
_BYTES_PER_S = 20 * 2**20


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """The limits of a program in the sandbox.

    Args:
        timeout_s: seconds for one program; a large one gets more.
        cpu_s: seconds of CPU time, likewise. Less than ``timeout_s``: a program that exceeds it is refused at once.
        memory_bytes: bytes of memory in addition to its files.
        file_bytes: the most bytes that it may write to one file, which is in memory only where Landlock is available.
        times_slower: the most times that a call may take the fastest call so far, if it takes more than ``call_s``.
        call_s: seconds that any call may take.
    """

    timeout_s: float = 20.0
    cpu_s: float = 15.0
    memory_bytes: int = 2 * 2**30
    file_bytes: int = 2**28
    times_slower: float = 50.0
    call_s: float = 5e-4


DEFAULT_LIMITS = SandboxLimits()


class SandboxKey(NamedTuple):
    """A program and its use, which pass together. ``content`` is a manifest's digest, or empty for any weights."""

    kind: EngineKind
    program_digest: str
    batch_size: int
    content: str = ""


class _Record(msgspec.Struct, frozen=True):
    """A record counts for the library, the machine and the checks that it names; ``call_s`` is the fastest call."""

    call_s: float
    library: str
    machine: str
    checks: int


class SandboxCache:
    """One small file for each key in ``directory``; only its user should be able to write (see ``below``).

    Errors of the disk are ignored: a program without a readable record runs in the sandbox again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def below(cls, directory: Path | None) -> "SandboxCache | None":
        """Return the cache in a user's directory of caches; None without one that only this user can write to."""
        usable = usable_cache(directory)
        return None if usable is None else cls(usable / "tried-programs")

    def call_s(self, key: SandboxKey) -> float | None:
        """Return the seconds of a call when the program passed, or None without a record that counts here."""
        with suppress(OSError, msgspec.DecodeError):
            record = msgspec.json.decode((self._directory / _name(key)).read_bytes(), type=_Record)
            if record == _record(key.kind, record.call_s):
                return record.call_s
        return None

    def knows_any(self, kind: EngineKind) -> bool:
        """Return True when any program of ``kind`` has a record."""
        with suppress(OSError):
            return next(self._directory.glob(f"{kind}-*"), None) is not None
        return False

    def add(self, key: SandboxKey, call_s: float) -> None:
        """Record that a program passed, and delete the oldest of more than 1000 records."""
        with suppress(OSError):
            write_whole(self._directory, _name(key), msgspec.json.encode(_record(key.kind, call_s)))
            forget_oldest(self._directory, _MOST_RECORDS)


class ProgramSandbox:
    """Runs programs in one sandbox process, which starts when it is first needed. For one thread only."""

    def __init__(
        self,
        limits: SandboxLimits,
        *,
        batch_size: int,
        cache: SandboxCache | None = None,
        trust: ProgramTrust = PURE_ONLY,
    ) -> None:
        self._limits = limits
        self._batch_size = batch_size
        self._trust = trust
        self._cache = cache
        self._is_steered: dict[str, bool] = {}
        self._passed: dict[SandboxKey, float] = {}
        self._suspected: set[tuple[EngineKind, str]] = set()
        self._client: SandboxClient | None = None

    def prepare(self, kind: EngineKind) -> None:
        """Start the process unless the cache knows programs of ``kind``. Raise TransientLoadError if that fails."""
        if kind in _LIBRARIES and (self._cache is None or not self._cache.knows_any(kind)):
            self._start(kind)

    def verify(self, kind: EngineKind, files: VersionFiles, read: Read | None = None) -> None:
        """Run a version's program in the sandbox, unless it has passed or is of a kind that needs no sandbox.

        Args:
            read: returns verified files; by default those of ``files``.

        Raises:
            OperatorNotAllowed: the program uses other operators than its permissions allow; it is not run.
            ProgramUnsupported: the engine cannot run the program.
            ProgramError: the program hangs, crashes, needs too much memory or is far too slow, or there is none.
            PermanentLoadError: the program itself raised it.
            TransientLoadError: the process ended, and the program may not be the cause.
        """
        if not is_sandboxed(kind) or (kind in NATIVE_ENGINES and not self._trust.native):
            return  # the load that follows refuses it
        manifest, read = files.manifest, read or files.read
        entry = manifest.program(PROGRAM_OF[kind])
        if entry is None:
            raise ProgramError(f"version {manifest.version} has no {PROGRAM_OF[kind]} program")
        key = self._key(kind, entry, files, read)
        if self._has_passed(key):
            return
        check_support(kind, entry, read)  # costs less than a sandbox that can only say the same
        call_s = self._call_s(key, files, {name: bytes(read(name)) for name in _names(entry, files)})
        self._remember(key, call_s)
        if self._cache is not None:
            self._cache.add(key, call_s)

    def verify_now(self, kind: EngineKind, files: VersionFiles) -> None:
        """Like ``verify``, with the second attempt of a content that may not be the cause of a failure."""
        try:
            self.verify(kind, files)
        except TransientLoadError:
            self.verify(kind, files)

    def cancel(self) -> None:
        """End a ``verify`` in progress. Any thread may call this."""
        if (client := self._client) is not None:
            client.process.kill()  # the request in progress raises SandboxEnded

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _key(self, kind: EngineKind, entry: ProgramEntry, files: VersionFiles, read: Read) -> SandboxKey:
        is_steered = self._is_steered.get(entry.program_digest)
        if is_steered is None:
            is_steered = check_program(entry.kind, read_program(entry, read), self._trust).data_dependent
            self._is_steered[entry.program_digest] = is_steered
        is_steered = is_steered and kind != "llvm"  # which compiles straight code only, with the size of every array
        manifest = files.manifest
        batch_size = self._batch_size if manifest.module is UNSET else 0
        return SandboxKey(kind, entry.program_digest, batch_size, manifest.digest if is_steered else "")

    def _has_passed(self, key: SandboxKey) -> bool:
        if key in self._passed:
            return True
        call_s = None if self._cache is None else self._cache.call_s(key)
        if call_s is not None:
            self._remember(key, call_s)
        return call_s is not None

    def _remember(self, key: SandboxKey, call_s: float) -> None:
        if len(self._passed) >= _MOST_RECORDS:
            del self._passed[next(iter(self._passed))]
        self._passed[key] = call_s

    def _call_s(self, key: SandboxKey, files: VersionFiles, content: dict[str, bytes]) -> float:
        limits, size = self._limits, sum(map(len, content.values()))
        more_s, memory_bytes = size / _BYTES_PER_S, limits.memory_bytes + 16 * size
        request = SandboxRequest(
            key.kind,
            files.manifest_bytes,
            content,
            self._batch_size,
            ProgramLimits(memory_bytes, limits.cpu_s + more_s, limits.file_bytes),
        )
        reply = self._request((key.kind, files.manifest.digest), request, limits.timeout_s + more_s)
        if reply.error is not None:
            raise _as_raised(reply, memory_bytes)
        self._check_speed(reply.call_s)
        return reply.call_s

    def _request(self, content: tuple[EngineKind, str], request: SandboxRequest, timeout_s: float) -> SandboxReply:
        client = self._start(request.kind)
        try:
            reply = client.request(request, timeout_s)
        except SandboxEnded as ended:
            self.close()
            # A content that may be the cause gets a second attempt; then it is the cause.
            is_sure = ended.is_crash or content in self._suspected
            self._suspected.add(content)
            raise (ProgramError if is_sure else TransientLoadError)(str(ended)) from ended
        self._suspected.discard(content)
        return reply

    def _start(self, kind: EngineKind) -> SandboxClient:
        """Return the process for ``kind``, which may be new."""
        client = self._client
        if client is not None and (client.process.is_gone or not client.serves(kind)):
            self.close()  # it ended between two programs, or is for another engine
        if self._client is None:
            self._client = SandboxClient(kind)
        return self._client

    def _check_speed(self, call_s: float) -> None:
        fastest_s = min(self._passed.values(), default=call_s)
        times = call_s / fastest_s
        if times > self._limits.times_slower and call_s > self._limits.call_s:
            raise ProgramError(
                f"a call takes {call_s * 1e3:.3g} ms at batch size {self._batch_size}, {times:.0f} times as long as "
                f"with a program seen before; expected at most {self._limits.times_slower:g} times"
            )


def is_sandboxed(kind: EngineKind) -> bool:
    """Return True unless programs of ``kind`` are exempt from the sandbox."""
    return kind in _LIBRARIES


def _names(entry: ProgramEntry, files: VersionFiles) -> set[str]:
    return {entry.file, files.manifest.weights, files.manifest.probe.file}


def _as_raised(reply: SandboxReply, memory_bytes: int) -> Exception:
    if reply.error == "MemoryError" or is_out_of_memory(Exception(reply.message)):
        return ProgramError(f"needs more than the {memory_bytes / 2**30:.1f} GiB of memory that the sandbox allows")
    if reply.error in ("ImportError", "ModuleNotFoundError"):  # no program raises it
        return TransientLoadError(f"repair the installation, or use --no-sandbox: the sandbox process: {reply.message}")
    kind = getattr(shared.errors, reply.error or "", None)
    if isinstance(kind, type) and issubclass(kind, PermanentLoadError):
        return kind(reply.message)
    return ProgramError(f"{reply.error}: {reply.message}")


def _name(key: SandboxKey) -> str:
    return f"{key.kind}-{key.program_digest}-{key.batch_size}-{key.content or 'any'}.json"


def _record(kind: EngineKind, call_s: float) -> _Record:
    library, installed = _LIBRARIES[kind], "?"
    with suppress(PackageNotFoundError):
        installed = version(library)
    return _Record(call_s, f"{library} {installed}", f"{platform.node()} {platform.machine()}", _CHECKS)
