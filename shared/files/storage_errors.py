"""What the operating system or a remote file system says, mapped to ``StoreUnavailable`` with a word on what to do."""

import errno
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
    errno.ESTALE: "the network mount went away under it: mount it again",
    errno.ENOTDIR: "something that is no directory stands in its way: move it, or choose another directory",
    errno.ENOENT: "it was removed meanwhile, or was never there",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
    errno.ENFILE: "raise this system's limit of open files",
}


def store_unavailable(error: Exception, doing: str) -> StoreUnavailable:
    """The error to raise from ``error``: what was being done, what was said, what to do about it."""
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0)
    else:
        said, remedy = f"{type(error).__name__}: {error}", None
    return StoreUnavailable(f"could not {doing}: {said}" + (f"; {remedy}" if remedy else ""))


@contextmanager
def storage(doing: str, *, expecting: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Map every OSError raised inside to StoreUnavailable; ``doing`` completes "could not …".

    Errors that the caller is ``expecting`` pass.
    """
    try:
        yield
    except expecting:
        raise
    except OSError as error:
        raise store_unavailable(error, doing) from error


@contextmanager
def remote_storage(doing: str, *, expecting: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Map whatever a remote file system raises inside: backends bring errors of their own, not all OSErrors.

    Errors that the caller is ``expecting`` pass.
    """
    try:
        yield
    except HotswapError:
        raise
    except expecting:
        raise
    except Exception as error:
        raise store_unavailable(error, doing) from error
