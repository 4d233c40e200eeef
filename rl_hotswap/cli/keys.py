"""``rl-hotswap keys``: make the key pair that signs and verifies policy versions, or show a public key."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from shared.errors import ConfigurationError
from shared.policy.signing import PublicKey, SigningKey
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.process.terminal import print_line

COMMAND = "rl-hotswap keys"

SIGNING_KEY_FILE = "signing_key.pem"
PUBLIC_KEY_FILE = "public_key.pem"


@dataclass(frozen=True, kw_only=True)
class KeysOptions:
    """Make the Ed25519 key pair that signs and verifies policy versions, or show a public key.

    make DIR writes signing_key.pem for --signing-key, readable by its owner only, and public_key.pem for --public-key.
    Existing files are never overwritten.

    show FILE prints the public key of either file as text that --public-key accepts.
    """

    what: tyro.conf.Positional[Literal["make", "show"]]
    """make a key pair, or show a public key."""
    path: tyro.conf.Positional[Path]
    """For make: a directory, created if missing. For show: a key file."""


def main(options: KeysOptions) -> int:
    """Make or show keys and return 0. Raises ConfigurationError for unreadable files and existing keys."""
    set_up_logging("keys", None, terminal_level="WARNING")
    if options.what == "show":
        print_line(_public_key_in(options.path))
        return 0
    key = make_keys(options.path)
    private, public = options.path / SIGNING_KEY_FILE, options.path / PUBLIC_KEY_FILE
    print_line(f"{private}: the private key. Its holder can publish versions that your actors accept")
    print_line(f"{public}: the public key, {key.public}")
    return 0


def make_keys(directory: Path) -> SigningKey:
    """Write a new key pair into ``directory``. Raises ConfigurationError if either file exists."""
    key = SigningKey.generate()
    private, public = directory / SIGNING_KEY_FILE, directory / PUBLIC_KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if public.exists():
            raise FileExistsError(0, "", str(public))
        _write_new(private, key.pem(), 0o600)
        _write_new(public, key.public.pem(), 0o644)
    except FileExistsError as error:
        raise ConfigurationError(
            f"name another directory: {error.filename} exists, and keys are never overwritten"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot write keys into {directory}: {error.strerror or error}") from error
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file completely and durably, or not at all; it has ``mode`` from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _public_key_in(path: Path) -> PublicKey:
    try:
        is_private = b"PRIVATE KEY" in path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the key {path}: {error.strerror or error}") from error
    return SigningKey.read(path).public if is_private else PublicKey.read(path)


command = partial(run_command, COMMAND, KeysOptions, main)
