"""Follows a file that grows, as ``tail -F`` does."""

import os
from pathlib import Path


class Tail:
    """The whole lines that have come since the last call. A file that was replaced is read to its end first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._unfinished = b""

    def lines(self) -> list[bytes]:
        lines = self._read()
        if self._was_replaced():
            self.close()
            lines += self._read()
        return lines

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._unfinished = b""

    def _read(self) -> list[bytes]:
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        chunks = [self._unfinished]
        while chunk := os.read(self._file, 2**20):
            chunks.append(chunk)
        *whole, self._unfinished = b"".join(chunks).split(b"\n")
        return whole

    def _was_replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)
