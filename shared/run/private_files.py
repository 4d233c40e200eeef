"""Permissions of a run: its owner alone enters the directory, or with ``--group-readable`` the group reads it too.

A file is out of reach in a directory that cannot be entered, so the directory protects what older releases and other
programs wrote there. New files get the same permissions for themselves, from the mask of the process.
"""

import os
import stat
from pathlib import Path

from loguru import logger

from shared.errors import ConfigurationError

PRIVATE = 0o700
_GROUP_READABLE = 0o750


def restrict_new_files(*, group_readable: bool) -> None:
    """Give files and directories that this process and its children create the permissions of a run."""
    os.umask(0o777 & ~_mode(group_readable))


def restrict_directories(run: Path, below: list[Path], *, group_readable: bool) -> None:
    """Set the permissions of the directory ``run`` and of those ``below`` it.

    Logs a line if more users could read it before. Raises ConfigurationError if more users still can.
    """
    mode = _mode(group_readable)
    before = _permissions(run)
    for directory in (run, *below):
        try:
            directory.chmod(mode)
        except OSError as error:  # of another owner, or on a file system without permissions
            if _permissions(directory) & ~mode:
                raise ConfigurationError(
                    f"choose a new --run-dir: other users can read {directory}, and it cannot be made private: "
                    f"{error.strerror}"
                ) from error
    if (after := _permissions(run)) & ~mode:
        raise ConfigurationError(
            f"choose a --run-dir on a file system with permissions: expected {mode:o} for {run}, found {after:o}"
        )
    if before & ~mode:
        logger.warning("run directory made private path={} mode={:o} mode_before={:o}", run, mode, before)


def check_may_be_made_private(directory: Path) -> None:
    """Raise ConfigurationError if an existing ``directory``, which is no run, has a use for other users."""
    try:
        mode = directory.stat().st_mode
        is_empty = not any(directory.iterdir())
    except FileNotFoundError:
        return
    if mode & stat.S_ISVTX or (not is_empty and mode & 0o077):
        raise ConfigurationError(
            f"choose a new directory for --run-dir: a run is private, and other users can read {directory}, which "
            "holds other files"
        )


def is_own(directory: Path) -> bool:
    """Return True if ``directory`` belongs to the user of this process. The owner of another decides what is in it."""
    return directory.stat().st_uid == os.geteuid()


def check_own(directory: Path) -> None:
    """Raise ConfigurationError if ``directory`` belongs to another user, who could place links or checkpoints there."""
    if not is_own(directory):
        raise ConfigurationError(
            f"choose a new --run-dir: {directory} belongs to user {directory.stat().st_uid}; expected the user "
            f"{os.geteuid()} of this process"
        )


def group_may_read(run: Path) -> bool:
    """Return True if the owner of a run let the group read it."""
    return bool(_permissions(run) & stat.S_IRGRP)


def _mode(group_readable: bool) -> int:
    return _GROUP_READABLE if group_readable else PRIVATE


def _permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777
