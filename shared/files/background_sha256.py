"""SHA-256 on a thread of its own, which begins before a file is read to its end, and seldom needs Python's lock."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from shared.files.buffer_pool import Data


class BackgroundSha256:
    """A context manager: its thread has ended when that is left. What was told of must not change before."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._pieces: SimpleQueue[Data | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._hashing: Future[None] | None = None

    @property
    def is_apart(self) -> bool:
        """Whether there is a thread. Where none was to be had, all is hashed by whoever tells of it."""
        return self._hashing is not None

    def update(self, piece: Data) -> None:
        """The next piece."""
        if self._hashing is None:
            self._sha256.update(piece)
        else:
            self._pieces.put(piece)

    def hexdigest(self) -> str:
        """Of everything; there must be nothing more to tell of. Waits for the thread."""
        self._end()
        return self._sha256.hexdigest()

    def __enter__(self) -> Self:
        try:
            self._hashing = self._pool.submit(self._hash)
        except RuntimeError:  # no thread is to be had just now: that is no fault of what is to be hashed
            self._hashing = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._pool.shutdown()

    def _hash(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._sha256.update(piece)

    def _end(self) -> None:
        if self._hashing is not None:
            self._pieces.put(None)
            self._hashing.result()
