"""A cache on disk of the programs that passed the sandbox, for actors that start later on this machine."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from shared.engines.engine import EngineKind
from shared.files.small_files import forget_oldest, write_whole

_LIBRARIES: dict[EngineKind, str] = {"llvm": "llvmlite", "onnx": "onnxruntime", "torchscript": "torch", "aot": "torch"}
_MOST_RECORDS = 1000


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


def _name(kind: EngineKind, program_digest: str, batch_size: int) -> str:
    return f"{kind}-{program_digest}-{batch_size}.json"


def _record(kind: EngineKind, call_s: float) -> _Record:
    library = _LIBRARIES[kind]
    try:
        installed = version(library)
    except PackageNotFoundError:
        installed = "?"
    return _Record(call_s, f"{library} {installed}", f"{platform.node()} {platform.machine()}")
