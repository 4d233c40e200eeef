"""The directory of this user's caches, which is used only while no other user can write to it."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from loguru import logger
from platformdirs import user_cache_path


def user_cache() -> Path:
    """Return the directory where this system wants the caches of this user."""
    return user_cache_path("rl-hotswap")


def usable_cache(directory: Path | None) -> Path | None:
    """Return ``directory``, created if missing; None, with a warning, if another user may have written to it.

    It has to be a directory of this user that grants nobody else any right. Everything in it has to belong to this user
    and to be no symbolic link.
    """
    if directory is None:
        return None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flaw = _flaw(directory)
    except OSError as error:
        flaw = f"choose another with XDG_CACHE_HOME: {error}"
    if flaw is None:
        return directory
    logger.warning("cache directory not used reason={}", flaw)
    return None


def _flaw(directory: Path) -> str | None:
    """Return the remedy and the reason why ``directory`` is not private, or None. Raises OSError."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return f"remove {directory}: expected a directory, found a link or a file"
    for path, each in chain([(str(directory), status)], _contents(directory)):
        if each.st_uid != os.geteuid():
            return f"remove {path}: expected it to belong to user {os.geteuid()}, found user {each.st_uid}"
        if stat.S_ISLNK(each.st_mode):
            return f"remove {path}: expected no symbolic link"
    if status.st_mode & 0o077:
        return f"run chmod 700 {directory}: expected a private directory, found mode {stat.S_IMODE(status.st_mode):04o}"
    return None


def _contents(directory: Path | str) -> Iterator[tuple[str, os.stat_result]]:
    """Return everything below ``directory``: another user may have left files there before it became private."""
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another actor removes old records
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _contents(entry.path)
