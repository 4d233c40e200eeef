"""What a program is without its weights: where two digests agree, new weights are all that there is to load.

Needs no torch and no ONNX: an archive of TorchScript is a zip file, a graph of ONNX is hashed as it is.
"""

import hashlib
import io
import re
import zipfile
import zlib

from shared.errors import ProgramError
from shared.policy.manifest import ProgramKind

MAX_ENTRIES = 100_000
MAX_PROGRAM_BYTES = 64 * 2**20
_WEIGHTS = re.compile(r"data/\d+")
# torch writes a class's constants in the order of a Python set, which differs from process to process.
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)
# Neither what was computed while tracing nor where the source stood changes what the program computes.
_NOT_PROGRAM = re.compile(r"\.data/serialization_id|traced_inputs(/\d+|\.pkl)|.*\.debug_pkl")


def program_digest(kind: ProgramKind, program: bytes) -> str:
    """The digest of any kind of program. Raises ProgramError as the others do."""
    return torchscript_program_digest(program) if kind == "torchscript" else hashlib.sha256(program).hexdigest()


def onnx_program_digest(graph: bytes) -> str:
    """SHA-256 of the graph, which holds no weights."""
    return hashlib.sha256(graph).hexdigest()


def torchscript_program_digest(archive: bytes) -> str:
    """SHA-256 over all entries but tensor data, serialization id, debug information and traced inputs.

    Raises ProgramError for what is no archive of TorchScript, or one that would unpack to more than it should.
    """
    digest = hashlib.sha256()
    for name, content in _program_entries(archive):
        for part in (name.encode(), _CONSTANTS.sub(_sorted_lines, content) if name.startswith("code/") else content):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _program_entries(archive: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = _checked(opened.infolist(), len(archive))
            return [(name, opened.read(info)) for name, info in sorted(entries.items()) if _is_program(name)]
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        NotImplementedError,
        EOFError,
        OSError,
        RuntimeError,  # "is encrypted"
    ) as error:
        raise ProgramError(f"not an archive of TorchScript: {error}") from error


def _sorted_lines(match: re.Match[bytes]) -> bytes:
    return b"".join(sorted(match[0].splitlines(keepends=True)))


def _is_program(name: str) -> bool:
    return not _WEIGHTS.fullmatch(name) and not _NOT_PROGRAM.fullmatch(name)


def _checked(infos: list[zipfile.ZipInfo], archive_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by their names inside the archive's one folder; sizes are bounded before anything is unpacked."""
    if len(infos) > MAX_ENTRIES:
        raise ProgramError(f"an archive of TorchScript has at most {MAX_ENTRIES} entries; found {len(infos)}")
    entries = {}
    unpacked = 0
    for info in infos:
        _, _, name = info.filename.partition("/")
        if not name or name in entries:
            raise ProgramError(
                f"an archive of TorchScript has one folder and no two entries alike; found {info.filename!r}"
            )
        entries[name] = info
        if info.compress_type != zipfile.ZIP_STORED:
            unpacked += info.file_size
        elif info.file_size > archive_bytes:
            raise ProgramError(f"{info.filename}: {info.file_size} bytes stored in an archive of {archive_bytes}")
    if unpacked > MAX_PROGRAM_BYTES:
        raise ProgramError(f"compressed entries unpack to {unpacked} bytes; expected at most {MAX_PROGRAM_BYTES}")
    if "data.pkl" not in entries:
        raise ProgramError("not an archive of TorchScript: it has no data.pkl")
    return entries
