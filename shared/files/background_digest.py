"""Digests on a background thread, computed while the file is still read, mostly without the GIL."""

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self

from shared.files.buffer_pool import Data
from shared.files.digests import DigestName, new_hasher


class BackgroundDigest:
    """Context manager that hashes pieces on a thread. The pieces must not change before its end."""

    def __init__(self, name: DigestName) -> None:
        self._hasher = new_hasher(name)
        self._pieces: SimpleQueue[Data | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._hashing: Future[None] | None = None

    @property
    def is_apart(self) -> bool:
        """True when a thread hashes; without one, ``update`` hashes on the caller's thread."""
        return self._hashing is not None

    def update(self, piece: Data) -> None:
        if self._hashing is None:
            self._hasher.update(piece)
        else:
            self._pieces.put(piece)

    def hexdigest(self) -> str:
        """Wait for the thread and return the digest of all pieces; no ``update`` may follow."""
        self._end()
        return self._hasher.hexdigest()

    def __enter__(self) -> Self:
        try:
            self._hashing = self._pool.submit(self._hash)
        except RuntimeError:  # no thread available at the moment
            self._hashing = None
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._pool.shutdown()

    def _hash(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hasher.update(piece)

    def _end(self) -> None:
        if self._hashing is not None:
            self._pieces.put(None)
            self._hashing.result()
