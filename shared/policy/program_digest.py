"""Digest of a program without its weights: versions with equal ones differ in weights only. Needs no torch."""

import hashlib
import io
import re
import zipfile
import zlib

from shared.errors import ProgramError
from shared.policy.manifest import ProgramKind

MAX_ENTRIES = 100_000
MAX_PROGRAM_BYTES = 64 * 2**20
# torch writes a class's constants in the order of a Python set, which differs between processes.
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)
# Weights; values seen while tracing and source locations do not change the program's results.
_NOT_PROGRAM = re.compile(r"data/\d+|\.data/serialization_id|traced_inputs(/\d+|\.pkl)|.*\.debug_pkl")


def program_digest(kind: ProgramKind, program: bytes) -> str:
    """Return the SHA-256 of a program without its weights; only TorchScript archives have some. Raises ProgramError."""
    return _torchscript_digest(program) if kind == "torchscript" else hashlib.sha256(program).hexdigest()


def _torchscript_digest(archive: bytes) -> str:
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
            names = sorted(name for name in entries if not _NOT_PROGRAM.fullmatch(name))
            return [(name, opened.read(entries[name])) for name in names]
    # RuntimeError: an encrypted entry, or an unsupported compression
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        raise ProgramError(f"not a TorchScript archive: {error}") from error


def _sorted_lines(match: re.Match[bytes]) -> bytes:
    return b"".join(sorted(match[0].splitlines(keepends=True)))


def _checked(infos: list[zipfile.ZipInfo], archive_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by their names in the archive's one folder, with bounded sizes before any is unpacked."""
    if len(infos) > MAX_ENTRIES:
        raise ProgramError(f"expected a TorchScript archive of at most {MAX_ENTRIES} entries, found {len(infos)}")
    entries, unpacked = {}, 0
    for info in infos:
        _, _, name = info.filename.partition("/")
        if not name or name in entries:
            raise ProgramError(f"expected an archive with one folder and unique entries, found {info.filename!r}")
        entries[name] = info
        if info.compress_type != zipfile.ZIP_STORED:
            unpacked += info.file_size
        elif info.file_size > archive_bytes:
            raise ProgramError(f"{info.filename}: {info.file_size} bytes stored in an archive of {archive_bytes}")
    if unpacked > MAX_PROGRAM_BYTES:
        raise ProgramError(
            f"expected compressed entries of at most {MAX_PROGRAM_BYTES} bytes unpacked, found {unpacked}"
        )
    if "data.pkl" not in entries:
        raise ProgramError("not a TorchScript archive: it has no data.pkl")
    return entries
