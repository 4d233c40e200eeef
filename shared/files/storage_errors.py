"""Mapping of errors of the operating system and remote file systems to ``StoreUnavailable`` with a remedy."""

import errno
import functools
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import HotswapError, StoreUnavailable

_NO_ROOM = "free some space there, or keep fewer versions"
_NO_RIGHT = "let this user read and write there, or choose another directory"
_REMEDIES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: _NO_ROOM,
    errno.EROFS: "mount it writable, or choose another directory",
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EIO: "check that disk or network mount, and the system's log",
    errno.ESTALE: "mount the network file system again",
    errno.ENOTDIR: "move the file that has the directory's name, or choose another directory",
    errno.ENOENT: "check that it exists: it may have been removed meanwhile",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
    errno.ENFILE: "raise this system's limit of open files",
}


def store_unavailable(error: Exception, doing: str) -> StoreUnavailable:
    """Return the error to raise from ``error``: the operation, the system's message, and a remedy if known."""
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0)
    else:
        said, remedy = f"{type(error).__name__}: {error}", None
    return StoreUnavailable(f"could not {doing}: {said}" + (f"; {remedy}" if remedy else ""))


@contextmanager
def storage(
    doing: str, *, expecting: type[Exception] | tuple[type[Exception], ...] = (), foreign: type[Exception] = OSError
) -> Iterator[None]:
    """Map ``foreign`` errors to StoreUnavailable, except ``expecting``; ``doing`` completes "could not ..."."""
    try:
        yield
    except HotswapError:
        raise
    except expecting:
        raise
    except foreign as error:
        raise store_unavailable(error, doing) from error


remote_storage = functools.partial(storage, foreign=Exception)
"""``storage`` for remote file systems, whose backends have errors of their own."""
