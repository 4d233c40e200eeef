"""Log files and outputs of a chaos run, read while they grow."""

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from scripts.fault_injection.invariants import Invariants
from scripts.fault_injection.published import Published
from shared.run.run_directory import RunDirectory

_ADOPTED = re.compile(r"policy version (\d+) adopted .* digest=([0-9a-f]{12})")
_RESUMED = re.compile(r"resumed (?:at )?update[ =](\d+)")


class Tail:
    """Follows a file as ``tail -F`` does: whole lines since the last call, and a replaced file to its end first."""

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
            current = self._path.stat()
        except FileNotFoundError:
            return False
        opened = os.fstat(self._file)
        return (current.st_dev, current.st_ino) != (opened.st_dev, opened.st_ino)


class RunLogs:
    """The adoptions and resumes in the log files of a run: their number, the updates, the time of the last resume."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._tails: dict[str, Tail] = {}
        self.adoptions = 0
        self.resumed: list[int] = []
        self.resumed_unix_s = 0.0

    def check(self, published: Published, invariants: Invariants) -> None:
        """Check the lines since the last call."""
        with suppress(FileNotFoundError):
            for path in self._run.logs.glob("*.log"):
                if path.name.count(".") == 1:  # rotated files have more
                    self._tails.setdefault(path.name, Tail(path))
        for name, tail in self._tails.items():
            for line in tail.lines():
                self._check_line(name, line.decode(errors="replace"), published, invariants)

    def _check_line(self, name: str, line: str, published: Published, invariants: Invariants) -> None:
        if (adopted := _ADOPTED.search(line)) is not None:
            self.adoptions += 1
            problem = published.problem_of(int(adopted[1]), adopted[2])
            invariants.check("only published versions act", problem is None, f"{name}: {problem}")
        elif name == "learner.log" and (resumed := _RESUMED.search(line)) is not None:
            self.resumed.append(int(resumed[1]))
            self.resumed_unix_s = datetime.fromisoformat(line.split(" | ", 1)[0]).timestamp()

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()


def tracebacks(directories: list[Path]) -> list[str]:
    """Return ``file:line`` of every traceback in the logs and outputs."""
    found = []
    for directory in directories:
        for path in sorted((*directory.glob("*.log"), *directory.glob("*.txt"))):
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if "Traceback (most recent call last)" in line:
                    found.append(f"{path.name}:{number}")
    return found
