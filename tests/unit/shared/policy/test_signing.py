import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError
from shared.policy.signing import SIGNATURE_BYTES, PublicKey, SigningKey, public_keys_of, signing_key_of
from tests.support.captured_logs import CapturedLogs

KEY = SigningKey.generate()
PEM, _PUBLIC_FORMAT = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_the_first_test_vector_of_rfc_8032() -> None:
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
    assert str(key.public) == "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert key.public.verifies(key.sign(b""), b"")


@given(st.binary(max_size=200), st.integers(0, 8 * SIGNATURE_BYTES - 1))
def test_one_bit_makes_another_signature(data: bytes, bit: int) -> None:
    signature = bytearray(KEY.sign(data))
    assert len(signature) == SIGNATURE_BYTES
    assert KEY.public.verifies(bytes(signature), data)
    assert not KEY.public.verifies(bytes(signature), data + b"\0")
    assert not SigningKey.generate().public.verifies(bytes(signature), data)
    signature[bit // 8] ^= 1 << bit % 8
    assert not KEY.public.verifies(bytes(signature), data)


@given(st.binary(max_size=100))
def test_random_signatures_and_keys_raise_only_our_errors(junk: bytes) -> None:
    assert not KEY.public.verifies(junk, b"data")
    try:
        key = PublicKey(junk)
    except ConfigurationError:
        assert len(junk) != 32
        return
    assert not key.verifies(KEY.sign(b"data"), b"data") or junk == KEY.public.raw


def test_a_key_is_read_from_its_file_its_text_or_itself(tmp_path: Path) -> None:
    private, public = write(tmp_path / "s.pem", KEY.pem()), write(tmp_path / "p.pem", KEY.public.pem(), 0o644)
    read = SigningKey.read(private)
    assert read.public == KEY.public
    assert read.sign(b"data") == KEY.sign(b"data")
    assert signing_key_of(str(private)).public == KEY.public  # type: ignore[union-attr]
    assert signing_key_of(KEY) is KEY
    assert signing_key_of(None) is None
    assert public_keys_of([str(public), public, KEY.public, str(KEY.public)]) == (KEY.public,) * 4
    assert public_keys_of(public) == public_keys_of(KEY.public) == (KEY.public,)
    assert public_keys_of(None) == public_keys_of(()) == ()


def test_a_private_key_is_shown_nowhere() -> None:
    secret = KEY.pem().splitlines()[1].decode()
    assert secret not in repr(KEY)
    assert KEY.public.raw.hex()[:12] in repr(KEY)


def test_a_private_key_that_others_can_read_is_warned_of(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    SigningKey.read(write(tmp_path / "good.pem", KEY.pem()))
    assert captured_logs.messages() == []
    path = write(tmp_path / "bad.pem", KEY.pem(), 0o640)
    SigningKey.read(path)
    assert captured_logs.messages() == [f"private key file readable by other users path={path}: run chmod 600 on it"]


def test_files_without_a_key_are_named(tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    encrypted = serialization.BestAvailableEncryption(b"passphrase")
    format_, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ed = ed25519.Ed25519PrivateKey.generate()
    for data, said in (
        (b"", "is not a private key in PEM"),
        (b"\xff" * 100, "is not a private key in PEM"),
        (KEY.public.pem(), "is not a private key in PEM"),
        (ed.private_bytes(PEM, format_, encrypted), "without a passphrase"),
        (rsa_key.private_bytes(PEM, format_, none), "expected an Ed25519 key, found RSAPrivateKey"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            SigningKey.read(write(tmp_path / "key", data))
    x_key = x25519.X25519PrivateKey.generate().public_key().public_bytes(PEM, _PUBLIC_FORMAT)
    for data, said in (
        (b"", "is not a public key in PEM"),
        (KEY.pem(), "is a private key, which only a publisher may have"),
        (x_key, "expected an Ed25519 key, found X25519PublicKey"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            PublicKey.read(write(tmp_path / "key", data))
    for read, kind in ((PublicKey.read, "public"), (SigningKey.read, "private")):
        with pytest.raises(
            ConfigurationError, match=rf"cannot read the {kind} key .*nowhere: No such file or directory"
        ):
            read(tmp_path / "nowhere")
    for text in ("ed25519:", "ed25519:" + "0" * 63, "ed25519:" + "G" * 64):
        with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
            PublicKey.read(text)


def test_openssl_agrees(tmp_path: Path) -> None:
    """Verify a version with OpenSSL, as docs/guides/signing.md does."""
    key, data = write(tmp_path / "p.pem", KEY.public.pem()), write(tmp_path / "manifest.json", b"{}")
    signature = write(tmp_path / "manifest.sig", KEY.sign(b"{}"))
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", data, "-sigfile", signature]
    try:
        done = subprocess.run(check, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no openssl here")
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully"), done.stderr


PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, PRIME) % PRIME


def _x(y: int) -> int | None:
    """Return the x coordinate of the point of the curve with ``y``, or None."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    for root in (x, x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
        if root * root % PRIME == square:
            return root
    return None


def _add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    product = _D * one[0] * other[0] * one[1] * other[1]
    x = (one[0] * other[1] + one[1] * other[0]) * pow(1 + product, -1, PRIME)
    y = (one[1] * other[1] + one[0] * other[0]) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def _small_order_points() -> set[tuple[int, int]]:
    """Return the eight points whose eighth multiple is the neutral point, found by arithmetic alone."""
    found: set[tuple[int, int]] = set()
    for y in range(2, 40):
        if (x := _x(y)) is None:
            continue
        point, total, scalar = (x, y), (0, 1), ORDER
        while scalar:  # a multiple by the large prime order leaves a point of small order
            total = _add(total, point) if scalar & 1 else total
            point, scalar = _add(point, point), scalar >> 1
        multiple = total
        for _ in range(8):
            found.add(multiple)
            multiple = _add(multiple, total)
    return found


def _weak_encodings() -> list[bytes]:
    ys = sorted({y for _, y in _small_order_points()})
    every = [*ys, *(y + PRIME for y in ys if y + PRIME < 2**255)]
    return [(y | sign << 255).to_bytes(32, "little") for y in every for sign in (0, 1)]


def test_there_are_eight_points_of_small_order() -> None:
    assert len(_small_order_points()) == 8
    assert len(_weak_encodings()) == 14  # five y coordinates, two of them with a second encoding; either sign


@pytest.mark.parametrize("raw", _weak_encodings(), ids=bytes.hex)
def test_a_key_of_small_order_is_refused(raw: bytes, tmp_path: Path) -> None:
    public = ed25519.Ed25519PublicKey.from_public_bytes(raw).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for given_as in (f"ed25519:{raw.hex()}", write(tmp_path / "weak.pem", public, 0o644)):
        with pytest.raises(ConfigurationError, match="anybody could sign for ed25519:"):
            PublicKey.read(given_as)


def test_a_key_that_is_not_encoded_canonically_is_refused() -> None:
    for y in (PRIME, PRIME + 3, 2**255 - 1):
        with pytest.raises(ConfigurationError, match="not encoded as RFC 8032 says"):
            PublicKey(y.to_bytes(32, "little"))


def test_a_key_of_small_order_would_verify_what_nobody_signed() -> None:
    """The reason for the refusal: with the neutral point as key, one signature fits all data."""
    neutral = (1).to_bytes(32, "little")
    ed25519.Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything")


def test_another_encoding_of_a_signature_is_no_signature() -> None:
    """S and S + L satisfy the same equation. The library accepts S below L only."""
    signature = KEY.sign(b"data")
    scalar = int.from_bytes(signature[32:], "little")
    for multiple in (1, 2, 7):
        forged = signature[:32] + (scalar + multiple * ORDER).to_bytes(32, "little")
        assert not KEY.public.verifies(forged, b"data")


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "key", b"")
    os.truncate(path, 2**40)  # sparse
    for read in (SigningKey.read, PublicKey.read):
        with pytest.raises(ConfigurationError, match="in PEM"):
            read(path)
