"""All versions that a store has shown: the digest of each number, and the corrupted ones."""

import os
from collections.abc import Callable
from pathlib import Path

from scripts.fault_injection.invariants import Invariant, Invariants
from shared.errors import ManifestError
from shared.policy.manifest import MANIFEST_NAME, decode_manifest
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
