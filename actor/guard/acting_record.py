"""The record of the content that acts: a few bytes that outlive a killed process, for the actors that start later.

Each agent has one file, mapped into memory: an adoption writes the content's digest, and each call sets a flag and
clears it, without a system call. The agent locks the file and removes it when it closes. A file that nobody locks
belongs to a process that ended otherwise. ``faulthandler`` appends its report to the file in a crash.
"""

import fcntl
import mmap
import os
import re
import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loguru import logger

from actor.guard.record_place import RecordPlace
from shared.errors import one_line

Remove = Callable[[], None]

_HEADER = struct.Struct("<8s?7xdqq32s16s48s")  # format, is calling, hung seconds, thread, version, digest, engine, boot
_FORMAT = b"acting-1"
_CALLING_AT, _HUNG_AT, _CONTENT_AT = 8, 16, 24
_HUNG, _CONTENT = struct.Struct("<d"), struct.Struct("<qq32s16s")
_BYTES = 4096  # the report of a crash begins here
_MAX_REPORT_BYTES = 2**16
_REPORT_PREFIX = "Fatal Python error: "
_CRASHED_THREAD = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)


@dataclass(frozen=True)
class EndedRecord:
    """The record that a process left behind.

    ``digest`` is empty if the process ended before the first adoption. ``is_calling`` is true if it ended in a call,
    which had hung for ``hung_s`` seconds, or 0. ``crash`` is the signal of a crash of the acting thread, or empty.
    """

    version: int
    digest: str
    engine_name: str
    is_calling: bool
    hung_s: float
    crash: str

    def fault(self) -> str | None:
        """Return the fault of the content in one sentence, or None if it did not end the process.

        The content is at fault if the process crashed in a call, or hung in one, until the deadline or until it was
        killed. The content is not at fault if the process was killed from outside during an ordinary call (by an
        operator, a supervisor, or the kernel for lack of memory), or ended between two calls: a good version may be
        killed at any time, and as often as somebody likes.
        """
        if not self.digest or not self.is_calling:
            return None
        if self.crash:
            return f"crashed its process in a call on {self.engine_name} ({self.crash})"
        if self.hung_s > 0:
            return f"did not return from a call on {self.engine_name} for {self.hung_s:.1f} s"
        return None


class ActingRecord:
    """The record of one agent.

    Args:
        place: The place of the file. None, or one that cannot be written to: nothing outlives the process.
    """

    def __init__(self, place: RecordPlace | None = None) -> None:
        self._path: Path | None = None
        self._descriptor: int | None = None
        self._memory: bytearray | mmap.mmap = bytearray(_BYTES)
        if place is not None:
            try:
                self._open(place)
            except OSError as error:
                logger.debug("acting record not written place={} error={}", place, error)
        self.calling: memoryview | list[int] = [0]  # a list is written to in a third of the time
        """Item 0 is 1 during each call, else 0."""
        if self._descriptor is not None:
            self.calling = memoryview(self._memory)[_CALLING_AT : _CALLING_AT + 1]

    @property
    def crash_report(self) -> int | None:
        """The file descriptor for ``faulthandler``; None without a file."""
        return self._descriptor

    @property
    def content(self) -> tuple[int, str, str]:
        """The version, the digest and the engine that act."""
        _, version, digest, engine_name = _CONTENT.unpack_from(self._memory, _CONTENT_AT)
        return version, digest.hex(), _text(engine_name)

    def adopted(self, version: int, digest: str, engine_name: str) -> None:
        """Record the content that acts from here on, on this thread."""
        content = bytes.fromhex(digest)
        _CONTENT.pack_into(
            self._memory, _CONTENT_AT, threading.get_ident(), version, content, engine_name.encode()[:16]
        )

    def note_hung(self, hung_s: float) -> None:
        """Record the length of a call that hangs; 0 if none does."""
        _HUNG.pack_into(self._memory, _HUNG_AT, hung_s)

    def close(self) -> None:
        """Remove the file. Idempotent; the memory stays."""
        if self._descriptor is None or self._path is None:
            return
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def _open(self, place: RecordPlace) -> None:
        place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = place.path(f"{os.getpid()}-{secrets.token_hex(4)}")
        unlocked = path.with_name(f".{path.name}")  # readers take an unlocked record for that of an ended process
        descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            header = _HEADER.pack(_FORMAT, False, 0.0, 0, -1, b"", b"", _boot())
            os.write(descriptor, header.ljust(_BYTES, b"\0"))  # written, not sparse: a later store needs no space
            self._memory = mmap.mmap(descriptor, _BYTES)
            self._path = unlocked.rename(path)
        except BaseException:
            unlocked.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self._descriptor = descriptor


def ended_records(place: RecordPlace) -> Iterator[tuple[EndedRecord | None, Remove]]:
    """Yield the record of each process that has ended, or None for one that cannot be read, and how to remove it.

    Of several callers, one at a time has a record; it stays until somebody removes it. Raises OSError.
    """
    for path in place.paths():
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process lives, or another caller has it
            path.stat()  # raises if another caller removed it meanwhile; its name is never used again
            yield _decode(file.read(_BYTES + _MAX_REPORT_BYTES)), partial(path.unlink, missing_ok=True)


def _decode(data: bytes) -> EndedRecord | None:
    """Return the record in ``data``; None for another format, and for a record of another boot or machine."""
    if len(data) < _BYTES:
        return None
    name, is_calling, hung_s, thread, version, digest, engine_name, boot = _HEADER.unpack_from(data)
    if name != _FORMAT or boot.rstrip(b"\0") != _boot():
        return None
    crash = _crash(data[_BYTES:].decode(errors="replace"), thread)
    return EndedRecord(version, digest.hex() if any(digest) else "", _text(engine_name), is_calling, hung_s, crash)


def _crash(report: str, acting_thread: int) -> str:
    """Return the signal in a report of ``faulthandler``; an empty text if the acting thread did not crash."""
    crashed = _CRASHED_THREAD.search(report)
    if crashed is not None and int(crashed[1], 16) != acting_thread:
        return ""
    return one_line(report.partition("\n")[0].removeprefix(_REPORT_PREFIX), 100)


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")


def _boot() -> bytes:
    """Return the name of this boot of this machine, where the system has one.

    A process that ended with its machine is no fault of a content, and other machines may share a cache directory.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:48]
    return b""
