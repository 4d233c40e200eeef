import hashlib

import pytest

from shared.files.digests import BLAKE3_FROM_BYTES, digest_of, name_for


def test_digests_are_those_of_the_standards() -> None:
    """The digest of ``abc`` in FIPS 180-4, and that of no data in the specification of BLAKE3."""
    assert digest_of("sha256", b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of("blake3", b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.mark.parametrize("name", ["sha256", "blake3"])
def test_views_are_hashed_like_bytes(name: str) -> None:
    data = hashlib.shake_128(b"data").digest(5000)
    assert digest_of(name, memoryview(data)) == digest_of(name, data)  # type: ignore[arg-type]


def test_large_files_have_the_faster_digest() -> None:
    assert [name_for(size) for size in (0, BLAKE3_FROM_BYTES - 1, BLAKE3_FROM_BYTES)] == ["sha256", "sha256", "blake3"]
