"""Landlock: the kernel lets this process read the files below some paths and change none (Linux 5.13 and later)."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, on every processor
_GET_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
# Rights that a ruleset handles, and thereby denies, from each version of the interface on.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_NETWORK_SINCE, _NETWORK = 4, 0b11  # bind and connect TCP
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract sockets and signals of other processes


def landlock_version() -> int:
    """Return the version of the kernel's interface, or 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)))


def restrict_files(readable: Iterable[Path], listable: Iterable[Path] = ()) -> bool:
    """Deny this thread, and threads that it starts, all files but the readable ones; return False if not possible.

    Where the kernel can, TCP, abstract sockets and signals to other processes are denied too. Files that are open
    already, and files without a path such as those of ``memfd_create``, are not affected.

    Args:
        readable: Files, and directories with all that is below them.
        listable: Directories of which only the names below may be read.
    """
    version = landlock_version()
    if version < 1:
        return False
    handled = sum(rights for since, rights in _FILE_RIGHTS.items() if version >= since)
    attributes = struct.pack("Q", handled)
    if version >= _NETWORK_SINCE:
        attributes += struct.pack("Q", _NETWORK)
    if version >= _SCOPES_SINCE:
        attributes += struct.pack("Q", _SCOPES)
    ruleset = _system_call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | (_READ_DIRECTORY if path.is_dir() else 0))
        for path in listable:
            _allow(ruleset, path, _READ_DIRECTORY)
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and _system_call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Add a rule. A path that does not exist, or is no directory where one is needed, allows nothing."""
    with suppress(OSError):
        # /proc makes new inodes for a process unless one is held, so the descriptor stays open.
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _system_call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)


def _system_call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(ctypes.c_long(number), *arguments))
