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
    assert not PublicKey(junk).verifies(KEY.sign(b"data"), b"data") or junk == KEY.public.raw


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
    for read in (PublicKey.read, SigningKey.read):
        with pytest.raises(ConfigurationError, match=r"cannot read the .* key .*nowhere: No such file or directory"):
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
