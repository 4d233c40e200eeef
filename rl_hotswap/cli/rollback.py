"""``rl-hotswap rollback``: publish an older version again under the next number."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import tyro

from shared.errors import ConfigurationError, VersionNotFound
from shared.policy.manifest import FileEntry, Manifest
from shared.policy.signing import SigningKey, public_keys_of, signing_key_of
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.process.terminal import print_line
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, PolicyStore, UsedNumbers, open_store

COMMAND = "rl-hotswap rollback"


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Publish the programs and weights of an older version again under the next number.

    Actors that follow the newest version adopt it like any other. Stop the learner first: its next version would be
    newer again. A signed version must be signed again with --signing-key, by the key that signed it before.
    """

    to: Annotated[int, tyro.conf.arg(metavar="V")]
    """The version to publish again. It must still be in the store; rl-hotswap train --keep-every keeps some forever."""
    run_dir: Path | None = None
    """Directory of the training to roll back."""
    store: Annotated[str | None, tyro.conf.arg(metavar="DIR|URL")] = None
    """A policy store instead of a run: a directory or a URL."""
    signing_key: Path | None = None
    """Sign the new version with this private key."""
    public_key: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY")] = ()
    """After a change of keys: also accept versions that this key signed (its file, or ed25519:HEX). May be repeated."""

    def __post_init__(self) -> None:
        if (self.run_dir is None) == (self.store is None):
            raise ConfigurationError("give either --run-dir DIR or --store DIR|URL, which hold the policies")
        if self.public_key and self.signing_key is None:
            raise ConfigurationError("add --signing-key: --public-key names versions that it may sign again")


def main(options: RollbackOptions) -> int:
    """Roll back, print the new version and return 0. Raises a HotswapError where that is not possible."""
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
    print_line(
        f"version {manifest.version} has the content of version {options.to} (digest {manifest.digest[:12]}) in {store}"
    )
    if (reason := store.quarantined().get(manifest.digest)) is not None:
        print_line(f"warning: an actor quarantined this content and refuses it under any number: {reason}")
    if run is not None and run.live():
        print_line("warning: the learner of this run is alive; its next version will be newer again")
    return 0


def roll_back(store: PolicyStore, to: int, authenticity: Authenticity, key: SigningKey | None) -> Manifest:
    """Verify version ``to``, publish its files again, and return the new manifest, whose ``restores`` is ``to``.

    Raises NotAuthentic; VersionNotFound; ConfigurationError when a signed version would lose its signature or ``to`` is
    the newest version; StoreError or PolicyLoadError when reading or publishing fails.
    """
    if to not in (known := store.versions()):
        there = f"its {len(known)} versions are from {known[0]} to {known[-1]}" if known else "it has none"
        raise VersionNotFound(f"{store} has no version {to}: {there}")
    if to == known[-1]:
        raise ConfigurationError(f"choose an older version: {to} is the newest in {store}")
    files = authenticity.open(store, to)
    if key is None and files.read_signature() is not None:
        raise ConfigurationError(f"sign the new version with --signing-key FILE: version {to} is signed too")

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        return msgspec.structs.replace(
            files.manifest, version=version, files=entries, created_unix_s=time.time(), restores=to
        )

    contents = {name: files.read(name) for name in files.manifest.files}
    return store.publish(contents, describe, sign=None if key is None else key.sign)


command = partial(run_command, COMMAND, RollbackOptions, main)
