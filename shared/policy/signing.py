"""Ed25519 keys. A publisher signs versions with the private key; actors with the public key accept only those.

A private key is a PEM file (PKCS #8, no passphrase); a public key too, or ``ed25519:`` and 64 hexadecimal digits.
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
_KEY_BYTES = 32

_PREFIX = "ed25519:"
_MAX_KEY_FILE_BYTES = 2**16
_SHOWN_DIGITS = 12

# A point of small order verifies forged signatures. These are the y coordinates of all eight of them; a
# larger y than the prime is another encoding of one below it.
_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})


@dataclass(frozen=True)
class PublicKey:
    """Verifies signatures. ``raw`` is the 32-byte key of RFC 8032. Raises ConfigurationError for a weak key."""

    raw: bytes

    def __post_init__(self) -> None:
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)  # the highest bit is the sign of x
        if len(self.raw) != _KEY_BYTES or y in _SMALL_ORDER_Y or y >= _PRIME:
            raise ConfigurationError(
                f"make a new key with rl-hotswap keys make DIR: anybody could sign for {self}, which is of small "
                "order or not encoded as RFC 8032 says"
            )

    @classmethod
    def read(cls, text: str | Path) -> Self:
        """Read a key from its text (``ed25519:…``) or from the file of that name. Raises ConfigurationError."""
        text = str(text)
        if text.startswith(_PREFIX):
            if not re.fullmatch(r"[0-9a-f]{64}", text.removeprefix(_PREFIX)):
                raise ConfigurationError(
                    f"expected a public key of {_PREFIX} and 64 hexadecimal digits, found {text!r}"
                )
            return cls(bytes.fromhex(text.removeprefix(_PREFIX)))
        return cls._from_pem(_read_key_file(Path(text), "public"), text)

    @classmethod
    def _from_pem(cls, pem: bytes, where: str) -> Self:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if b"PRIVATE KEY" in pem:
            raise ConfigurationError(
                f"pass the public key instead: {where} is a private key, which only a publisher may have"
            )
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"{where} is not a public key in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError(f"{where}: expected an Ed25519 key, found {type(key).__name__}")
        return cls(key.public_bytes_raw())

    def __str__(self) -> str:
        """Return ``ed25519:…``, which ``read`` accepts."""
        return f"{_PREFIX}{self.raw.hex()}"

    @property
    def short(self) -> str:
        """Prefix of the key for log lines."""
        return f"{_PREFIX}{self.raw.hex()[:_SHOWN_DIGITS]}…"

    def pem(self) -> bytes:
        """Return the key as a PEM file."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return True when ``signature`` was made over ``data`` with the private key. Takes about 0.15 ms."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private key. Only ``rl-hotswap keys`` writes it."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.short})"

    @classmethod
    def generate(cls) -> Self:
        """Return a new random key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a key file; log a warning when other users can read it. Raises ConfigurationError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        pem = _read_key_file(path, "private")
        try:
            key = load_pem_private_key(pem, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(
                f"{path} is not a private key in PEM without a passphrase: {error}; "
                "create one with rl-hotswap keys make DIR"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(f"{path}: expected an Ed25519 key, found {type(key).__name__}")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            logger.warning("private key file readable by other users path={}: run chmod 600 on it", path)
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """Return the deterministic 64-byte signature of ``data``."""
        return self._key.sign(data)

    def pem(self) -> bytes:
        """Return the private key as a PEM file."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def signing_key_of(given: "SigningKey | str | Path | None") -> SigningKey | None:
    """Return a key given as itself or as a file. Raises ConfigurationError."""
    return SigningKey.read(Path(given)) if isinstance(given, str | Path) else given


def public_keys_of(given: "PublicKey | str | Path | Iterable[PublicKey | str | Path] | None") -> tuple[PublicKey, ...]:
    """Return keys given singly or together, each as itself, its text or its file. Raises ConfigurationError."""
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
