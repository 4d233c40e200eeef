"""What programs have passed their trial on this machine: an actor that is started again need not try them again."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from shared.engines.engine import EngineKind
from shared.files.small_files import forget_oldest, write_whole

_LIBRARIES: dict[EngineKind, str] = {
    "llvm": "llvmlite",
    "onnx": "onnxruntime",
    "torchscript": "torch",
    "aot": "torch",
}
_MOST_REMEMBERED = 1000


class _Record(msgspec.Struct, frozen=True):
    """``call_s``: the least time of a call. What it was tried with must be what it would run with now."""

    call_s: float
    library: str
    machine: str


class SandboxCache:
    """One small file for each engine, program and batch size in ``directory``, which only its user should write to.

    That a program has passed is worth remembering, not relying on: where nothing can be read or written, it is tried.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def call_s(self, kind: EngineKind, program_digest: str, batch_size: int) -> float | None:
        """What a call took when it passed; None where it has not, or not on this machine with this library."""
        with suppress(OSError, msgspec.DecodeError):
            data = (self._directory / _name(kind, program_digest, batch_size)).read_bytes()
            record = msgspec.json.decode(data, type=_Record)
            if record == _record(kind, record.call_s):
                return record.call_s
        return None

    def knows_any(self, kind: EngineKind) -> bool:
        """Whether any program of ``kind`` has passed here."""
        with suppress(OSError):
            return next(self._directory.glob(f"{kind}-*"), None) is not None
        return False

    def passed(self, kind: EngineKind, program_digest: str, batch_size: int, call_s: float) -> None:
        """Remember it, and forget the oldest where there are very many."""
        with suppress(OSError):
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = msgspec.json.encode(_record(kind, call_s))
            write_whole(self._directory, _name(kind, program_digest, batch_size), data)
            forget_oldest(self._directory, _MOST_REMEMBERED)


def _name(kind: EngineKind, program_digest: str, batch_size: int) -> str:
    return f"{kind}-{program_digest}-{batch_size}.json"


def _record(kind: EngineKind, call_s: float) -> _Record:
    library = _LIBRARIES[kind]
    try:
        installed = version(library)
    except PackageNotFoundError:
        installed = "?"
    return _Record(call_s, f"{library} {installed}", f"{platform.node()} {platform.machine()}")
