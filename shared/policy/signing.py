"""Ed25519 keys: whoever holds the private one can publish what actors that were given the public one will act with.

A private key is a file: PEM, PKCS #8, without a passphrase. A public key is a file, too (PEM), or the text
``ed25519:`` and 64 hexadecimal digits, for command lines and settings: it is no secret.
"""

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from loguru import logger

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_BYTES = 64

_PREFIX = "ed25519:"
_MAX_KEY_FILE_BYTES = 2**16
_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class PublicKey:
    """Tells whether the holder of the private key signed something. ``raw`` is the 32 bytes of RFC 8032."""

    raw: bytes

    @classmethod
    def read(cls, text: str | Path) -> Self:
        """The key that ``text`` is (``ed25519:…``), or that is in the file of that name. Raises ConfigurationError."""
        text = str(text)
        if text.startswith(_PREFIX):
            if not re.fullmatch(r"[0-9a-f]{64}", text.removeprefix(_PREFIX)):
                raise ConfigurationError(
                    f"expected {_PREFIX} and 64 hexadecimal digits as a public key; found {text!r}"
                )
            return cls(bytes.fromhex(text.removeprefix(_PREFIX)))
        return cls._from_pem(_read_key_file(Path(text), "public"), text)

    @classmethod
    def _from_pem(cls, pem: bytes, where: str) -> Self:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        if b"PRIVATE KEY" in pem:
            raise ConfigurationError(
                f"{where} is a private key, which only a publisher should have; expected its public key"
            )
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"{where} is no public key in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError(f"{where}: expected an Ed25519 key, found {type(key).__name__}")
        return cls(key.public_bytes_raw())

    def __str__(self) -> str:
        """``ed25519:…``, which ``read`` takes."""
        return f"{_PREFIX}{self.raw.hex()}"

    @property
    def short(self) -> str:
        """Enough of it to tell keys apart in a log."""
        return f"{_PREFIX}{self.raw.hex()[:_SHOWN_DIGITS]}…"

    def pem(self) -> bytes:
        """The key as a file holds it, for every program that knows PEM."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` was made with the private key over exactly ``data``; about 0.15 ms."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private key. It is never written, logged or shown, but by ``scripts/keys.py``."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.short})"

    @classmethod
    def generate(cls) -> Self:
        """A new key, of the operating system's randomness."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in a file; a file that others can read is warned of. Raises ConfigurationError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        pem = _read_key_file(path, "private")
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(
                f"{path} is no private key in PEM without a passphrase: {error}; "
                "python scripts/keys.py make DIR makes one"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(f"{path}: expected an Ed25519 key, found {type(key).__name__}")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            logger.warning("{} can be read by others, who can then publish in your name: chmod 600 {}", path, path)
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """The signature of ``data``: 64 bytes, the same ones every time."""
        return self._key.sign(data)

    def pem(self) -> bytes:
        """The private key itself, as its file holds it."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def signing_key_of(given: "SigningKey | str | Path | None") -> SigningKey | None:
    """A key, or the file that it is in, as functions for people take it. Raises ConfigurationError."""
    return SigningKey.read(Path(given)) if isinstance(given, str | Path) else given


def public_keys_of(given: "PublicKey | str | Path | Iterable[PublicKey | str | Path] | None") -> tuple[PublicKey, ...]:
    """One key or several, each itself, its text or its file, as functions for people take it.

    Raises ConfigurationError.
    """
    if given is None:
        return ()
    several = (given,) if isinstance(given, PublicKey | str | Path) else tuple(given)
    return tuple(key if isinstance(key, PublicKey) else PublicKey.read(key) for key in several)


def _read_key_file(path: Path, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(f"cannot read the {kind} key {path}: {error.strerror or error}") from error
