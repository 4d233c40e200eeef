"""``python scripts/rollback.py``: makes an older version the newest again, as a new version."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import tyro

from shared.errors import ConfigurationError, VersionNotFound
from shared.policy.manifest import FileEntry, Manifest
from shared.policy.signing import SigningKey, public_keys_of, signing_key_of
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, PolicyStore, open_store
from shared.store.used_numbers import UsedNumbers

COMMAND = "rl-hotswap rollback"


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Make an older version the newest again: the same programs and weights under the next number.

    Every actor that follows the newest adopts it as it adopts any other; none has to be told. While a learner goes on
    publishing, its next version is newer again: stop it first, and resume it from a checkpoint that you want. A version
    that was signed has to be signed again, with --signing-key, and only what that key signed before is.
    """

    to: Annotated[int, tyro.conf.arg(metavar="V")]
    """The version to go back to. It must still be in the store; scripts/train.py --keep-every keeps some for good."""
    run_dir: Path | None = None
    """The training whose policies are rolled back."""
    store: Annotated[str | None, tyro.conf.arg(metavar="DIR|URL")] = None
    """A policy store instead of a run: a directory or a URL."""
    signing_key: Path | None = None
    """Sign the new version with this private key."""
    public_key: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY")] = ()
    """Where keys have changed: take what was signed with this one too (its file, or ed25519:HEX). May be repeated."""

    def __post_init__(self) -> None:
        if (self.run_dir is None) == (self.store is None):
            raise ConfigurationError("expected --run-dir DIR or --store DIR|URL: where the policies are")
        if self.public_key and self.signing_key is None:
            raise ConfigurationError("--public-key says what --signing-key may sign again: give that, too")


def main(options: RollbackOptions) -> int:
    """Roll back and say so. Raises a HotswapError where that is not possible."""
    set_up_logging("rollback", None, terminal_level="WARNING")
    key = signing_key_of(options.signing_key)
    run = None if options.run_dir is None else RunDirectory(options.run_dir)
    config = None if run is None else run.run_config()
    store: PolicyStore = (
        open_store(options.store or "")
        if run is None
        else LocalPolicyStore(run.policies, used_numbers=UsedNumbers(run.numbers))
    )
    keys = () if key is None else (key.public, *public_keys_of(options.public_key))
    authenticity = Authenticity(keys, None if config is None else config.run_id)
    manifest = roll_back(store, options.to, authenticity, key)
    print(
        f"version {manifest.version} has the content of version {options.to} (digest {manifest.digest[:12]}) in {store}"
    )
    if (reason := store.quarantined().get(manifest.digest)) is not None:
        print(f"warning: an actor has quarantined that content, and refuses it under any number: {reason}")
    if run is not None and run.live():
        print("warning: the learner of this run is alive: what it publishes next is newer again")
    return 0


def roll_back(store: PolicyStore, to: int, authenticity: Authenticity, key: SigningKey | None) -> Manifest:
    """Publish the content of version ``to`` again, and return the new manifest, which ``restores`` it.

    Every file is verified on the way. Raises NotAuthentic for a version that ``key`` would vouch for without knowing
    who made it, ConfigurationError where a signed version would lose its signature or is the newest anyway,
    VersionNotFound with those that there are, and what reading and publishing raise.
    """
    known = store.versions()
    if to not in known:
        there = f"its {len(known)} versions are from {known[0]} to {known[-1]}" if known else "it has none"
        raise VersionNotFound(f"{store} has no version {to} (any more): {there}")
    if to == known[-1]:
        raise ConfigurationError(f"version {to} is the newest in {store}: there is nothing to go back from")
    files = authenticity.open(store, to)
    if key is None and files.read_signature() is not None:
        raise ConfigurationError(
            f"version {to} is signed, and actors that check refuse what is not: sign it again by --signing-key FILE"
        )

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        return msgspec.structs.replace(
            files.manifest, version=version, files=entries, created_unix_s=time.time(), restores=to
        )

    contents = {name: files.read(name) for name in files.manifest.files}
    return store.publish(contents, describe, sign=None if key is None else key.sign)


def command(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments`` and return its exit code."""
    return run_command(COMMAND, RollbackOptions, main, arguments)
