"""``python scripts/keys.py``: makes the pair of keys that versions are signed and checked with."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from shared.errors import ConfigurationError
from shared.policy.signing import PublicKey, SigningKey
from shared.process.command_line import run_command
from shared.process.log import set_up_logging

COMMAND = "rl-hotswap keys"

SIGNING_KEY_FILE = "signing_key.pem"
PUBLIC_KEY_FILE = "public_key.pem"


@dataclass(frozen=True, kw_only=True)
class KeysOptions:
    """Make the keys that versions are signed and checked with (Ed25519), or show a key.

    make DIR writes signing_key.pem, which only its owner can read, for --signing-key; and public_key.pem for
    --public-key of whoever is to act with what that key signed. What is there is never overwritten.

    show FILE prints the public key of either file as a text, which --public-key takes as well.
    """

    what: tyro.conf.Positional[Literal["make", "show"]]
    """Make a pair of keys, or show one."""
    path: tyro.conf.Positional[Path]
    """For make: the directory, which is made where it is missing. For show: the file of a key."""


def main(options: KeysOptions) -> int:
    """Do it. Raises ConfigurationError where that is not possible."""
    set_up_logging("keys", None, terminal_level="WARNING")
    if options.what == "show":
        print(_public_key_in(options.path))
        return 0
    key = make_keys(options.path)
    print(f"{options.path / SIGNING_KEY_FILE}: the private key; whoever has it can publish what your actors act with")
    print(f"{options.path / PUBLIC_KEY_FILE}: the public key, {key.public}")
    return 0


def make_keys(directory: Path) -> SigningKey:
    """A new pair of keys as two files of ``directory``. Raises ConfigurationError where either is there already."""
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
            f"{error.filename} is there already, and a key that is lost is lost for ever: name another directory"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot write keys into {directory}: {error.strerror or error}") from error
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Whole and on the disk, or not at all; never readable to more than ``mode`` says, at no moment."""
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


def command(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments`` and return its exit code."""
    return run_command(COMMAND, KeysOptions, main, arguments)
