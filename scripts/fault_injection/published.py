"""Versions and log files of a chaos run, read while they grow."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from scripts.fault_injection.invariants import Invariant, Invariants
from shared.errors import ManifestError
from shared.policy.manifest import MANIFEST_NAME, decode_manifest
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import UsedNumbers, parse_version_name
from shared.store.version_files import mark_name, parse_mark_name, version_name


class Published:
    """Lists the store's directories repeatedly; ``places`` returns the places where versions may be now."""

    def __init__(self, places: Callable[[], list[Path]], invariants: Invariants, used_numbers: UsedNumbers) -> None:
        self.digests: dict[int, str] = {}
        self.corrupted: dict[int, str] = {}
        self._places = places
        self._used_numbers = used_numbers
        self._invariants = invariants
        self._inodes: dict[int, int] = {}

    def check(self) -> None:
        for place in self._places():
            try:
                entries = list(os.scandir(place))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                number = parse_version_name(entry.name)
                if number is not None and self._inodes.get(number) != (inode := entry.inode()):
                    self._note(number, inode, Path(entry.path))

    def _note(self, number: int, inode: int, path: Path) -> None:
        unique: Invariant = "no version number is used twice"
        if number in self.corrupted:
            self._invariants.violated(unique, f"version {number} was corrupted and is another one now")
            return
        try:
            digest = decode_manifest((path / MANIFEST_NAME).read_bytes()).digest
        except FileNotFoundError:  # swept or moved meanwhile
            return
        except ManifestError as error:
            self._invariants.violated(unique, f"version {number} has no readable manifest: {error}")
            return
        known = self.digests.setdefault(number, digest)
        changed = f"version {number} had digest {known}, found {digest}"
        self._invariants.check(unique, known == digest, changed)
        self._inodes[number] = inode

    def commit_corrupted(self, store: Path, directory: Path, number: int, kind: str) -> bool:
        """Commit ``directory`` as version ``number``, as a publisher does; return False if the number is taken."""
        if not self._used_numbers.use(number):
            return False
        mark = store / mark_name(number)
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        if highest_number(store) > number:  # lower marks are removed, so a new mark alone does not prove a free number
            mark.unlink(missing_ok=True)
            return False
        self.corrupted[number] = kind
        self._inodes[number] = directory.stat().st_ino
        directory.rename(store / version_name(number))
        return True

    def problem_of(self, number: int, digest: str | None) -> str | None:
        """Return the reason why version ``number`` must not act; None for a version that the learner published."""
        if number in self.corrupted:
            return f"version {number} acted but is corrupted: {self.corrupted[number]}"
        if number not in self.digests:
            self.check()
        known = self.digests.get(number)
        if known is None:
            return f"version {number} acted but was not published"
        if digest is not None and not known.startswith(digest):
            return f"version {number} acted with digest {digest} but was published with {known}"
        return None


def highest_number(store: Path) -> int:
    """Return the highest number that was ever used in ``store``, -1 if there is none."""
    names = [entry.name for entry in os.scandir(store)]
    numbers = [number for name in names for number in (parse_version_name(name), parse_mark_name(name))]
    return max((number for number in numbers if number is not None), default=-1)


_ADOPTED = re.compile(r"policy version (\d+) adopted .* digest=([0-9a-f]{12})")
_TRACEBACK = "Traceback (most recent call last)"
_ENVIRONMENT_FAILED = "environment failed error="
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| [A-Z]+ +\| ")
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
            self._file, self._unfinished = None, b""

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
        with suppress(FileNotFoundError):
            return self._file is not None and not os.path.samestat(self._path.stat(), os.fstat(self._file))
        return False


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
    """Return ``file:line`` of every traceback in the logs and outputs, except for those of failed environments."""
    found = []
    for directory in directories:
        for path in sorted((*directory.glob("*.log"), *directory.glob("*.txt"))):
            is_environments = False
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if _RECORD.match(line):
                    is_environments = _ENVIRONMENT_FAILED in line
                elif _TRACEBACK in line and not is_environments:
                    found.append(f"{path.name}:{number}")
    return found
