"""Memory for large files, used again once nobody holds what was read into it.

Fresh memory costs more than reading into it: the kernel has to find and clear each page, and on a virtual machine the
host may have to first, which takes many times as long.
"""

import mmap
from contextlib import suppress

Data = bytes | memoryview
"""Bytes that do not change while anybody holds them: ``bytes``, or a read-only view of kept memory."""

_HUGE_PAGE_BYTES = 2**21
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class BufferPool:
    """Belongs to one thread. Beside what is in use it keeps one piece, of the size that was asked for last."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []

    def take(self, size_bytes: int) -> memoryview:
        """``size_bytes`` to write to, whatever is in them, which are not given out again before every view is gone.

        Raises OSError where there is no memory.
        """
        length = -(-size_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES  # the same, where only a header's length changes
        fit = next((piece for piece in self._pieces if len(piece) == length and piece.is_free), None)
        self._pieces = [piece for piece in self._pieces if piece is fit or not piece.is_free]
        if fit is None:  # what does not fit is gone by now
            fit = _new_piece(length)
            self._pieces.append(fit)
        return memoryview(fit)[:size_bytes]


def is_lasting(memory: object) -> bool:
    """Whether these are bytes, or of kept memory a view that nobody can write to."""
    return isinstance(memory, bytes) or (
        isinstance(memory, memoryview) and memory.readonly and isinstance(memory.obj, bytes | _Piece)
    )


class _Piece(mmap.mmap):
    @property
    def is_free(self) -> bool:
        """Whether no view is left, nor anything made of one: the map counts them, and resists while there are."""
        try:
            self.resize(len(self))
        except (BufferError, SystemError):  # in use; or the system cannot resize, and then nothing is used again
            return False
        return True


def _new_piece(length: int) -> _Piece:
    piece = _Piece(-1, length, flags=_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # the kernel may have been built without
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece
