"""Digests of files: SHA-256, and BLAKE3, which takes less than half of the time and is used for large files."""

import hashlib
from collections.abc import Mapping
from typing import Literal, Protocol

from shared.files.buffer_pool import Data

DigestName = Literal["sha256", "blake3"]

DIGEST_TITLES: Mapping[DigestName, str] = {"sha256": "SHA-256", "blake3": "BLAKE3"}

# From this size on, the time of hashing counts more than that every reader knows SHA-256.
BLAKE3_FROM_BYTES = 2**22


class Hasher(Protocol):
    """A digest of pieces, without the GIL if they are large."""

    def update(self, piece: Data, /) -> object:
        """Add a piece."""

    def hexdigest(self) -> str:
        """Return the digest of all pieces, 64 hexadecimal digits."""


def new_hasher(name: DigestName) -> Hasher:
    """Return a hasher of no data. The library for BLAKE3 is imported at its first use."""
    if name == "sha256":
        return hashlib.sha256()
    from blake3 import blake3

    return blake3()


def digest_of(name: DigestName, data: Data) -> str:
    """Return the digest of ``data``, 64 hexadecimal digits."""
    hasher = new_hasher(name)
    hasher.update(data)
    return hasher.hexdigest()


def name_for(size_bytes: int) -> DigestName:
    """Return the digest that a new version states of a file of this size."""
    return "blake3" if size_bytes >= BLAKE3_FROM_BYTES else "sha256"
