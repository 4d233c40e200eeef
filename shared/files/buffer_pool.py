"""Memory for large files, reused when no view of it is left: fresh pages have to be found and cleared first."""

import mmap
from contextlib import suppress

Data = bytes | memoryview
"""Immutable data: ``bytes``, or a read-only view of a buffer."""

_HUGE_PAGE_BYTES = 2**21
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class BufferPool:
    """Buffers of one thread: those in use, and one free buffer of the size requested last."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []

    def take(self, size_bytes: int) -> memoryview:
        """Return writable memory, reused after its last view is gone. Raises OSError if there is none."""
        length = -(-size_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES  # unchanged by small differences of size
        fit = next((piece for piece in self.pieces if len(piece) == length and piece.is_free), None)
        self.pieces = [piece for piece in self.pieces if piece is fit or not piece.is_free]
        if fit is None:  # free pieces of another size have been released above
            fit = _Piece(-1, length, flags=_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel without huge pages
                    fit.madvise(mmap.MADV_HUGEPAGE)
            self.pieces.append(fit)
        return memoryview(fit)[:size_bytes]


def is_lasting(memory: object) -> bool:
    """Return True for ``bytes`` and for read-only views of ``bytes`` or of a buffer."""
    return isinstance(memory, bytes) or (
        isinstance(memory, memoryview) and memory.readonly and isinstance(memory.obj, bytes | _Piece)
    )


class _Piece(mmap.mmap):
    @property
    def is_free(self) -> bool:
        """True when no view is left: a map with exported views refuses to be resized."""
        try:
            self.resize(len(self))
        except (BufferError, SystemError):  # in use, or the system cannot resize, and nothing is reused
            return False
        return True
