"""Every version that a store has shown: which number was which content, and which ones are corrupted."""

import os
from collections.abc import Callable
from pathlib import Path

from scripts.fault_injection.invariants import Invariants
from shared.errors import ManifestError
from shared.policy.manifest import MANIFEST_NAME, decode_manifest
from shared.store.policy_store import parse_version_name
from shared.store.used_numbers import UsedNumbers
from shared.store.version_files import mark_name, parse_mark_name, version_name


class Published:
    """Looks into the store's directory again and again; ``places`` says where that is at the moment."""

    def __init__(self, places: Callable[[], list[Path]], invariants: Invariants, used_numbers: UsedNumbers) -> None:
        self.digests: dict[int, str] = {}
        self.corrupted: dict[int, str] = {}
        self._places = places
        self._used_numbers = used_numbers
        self._invariants = invariants
        self._inodes: dict[int, int] = {}

    def look(self) -> None:
        """Take note of the versions that are new."""
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
        if number in self.corrupted:
            self._invariants.broken("no number used twice", f"version {number} was a corrupted one, and is another now")
            return
        try:
            digest = decode_manifest((path / MANIFEST_NAME).read_bytes()).digest
        except FileNotFoundError:  # swept or moved meanwhile
            return
        except ManifestError as error:
            self._invariants.broken(
                "no number used twice", f"version {number} has no manifest that can be read: {error}"
            )
            return
        known = self.digests.setdefault(number, digest)
        self._invariants.hold(
            "no number used twice", known == digest, f"version {number} had digest {known}, now it has {digest}"
        )
        self._inodes[number] = inode

    def commit_corrupted(self, store: Path, directory: Path, number: int, kind: str) -> bool:
        """Make ``directory`` version ``number`` of ``store`` as any publisher would. False where that is taken."""
        if not self._used_numbers.use(number):
            return False
        mark = store / mark_name(number)
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        if highest_number(store) > number:  # lower marks are removed: making one proves nothing by itself
            mark.unlink(missing_ok=True)
            return False
        self.corrupted[number] = kind
        self._inodes[number] = directory.stat().st_ino
        directory.rename(store / version_name(number))
        return True

    def who_acted(self, number: int, digest: str | None) -> str | None:
        """What is wrong with having acted with that version, None where it is one that the learner published."""
        if number in self.corrupted:
            return f"acted with version {number}, which is corrupted: {self.corrupted[number]}"
        if number not in self.digests:
            self.look()
        known = self.digests.get(number)
        if known is None:
            return f"acted with version {number}, which nobody has published"
        if digest is not None and not known.startswith(digest):
            return f"acted with version {number} of digest {digest}; it was published with {known}"
        return None


def highest_number(store: Path) -> int:
    """The highest number that was ever used in ``store``, -1 where none was."""
    names = [entry.name for entry in os.scandir(store)]
    numbers = [number for name in names for number in (parse_version_name(name), parse_mark_name(name))]
    return max((number for number in numbers if number is not None), default=-1)
