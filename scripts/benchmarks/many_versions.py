"""Stores with very many versions, made in a moment: each is a directory with its own manifest and linked files."""

import os
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from shared.policy.manifest import MANIFEST_NAME, encode_manifest
from shared.store.policy_store import LocalPolicyStore, version_name
from shared.store.version_files import mark_name

_WHOLE = 1_000  # of each call, the oldest first: those that a sweep removes. More would take minutes to remove.
_PLACEHOLDER = 987_654_321_987_654_321


def add_versions(store: LocalPolicyStore, numbers: Iterable[int]) -> None:
    """Add versions under ``numbers``, ascending, with the content of the newest that is there, and raise its mark.

    Beyond the first thousand they have their manifest alone: listing looks no further.
    """
    source = store.newest()
    assert source is not None
    manifest = store.open(source).manifest
    template = encode_manifest(msgspec.structs.replace(manifest, version=_PLACEHOLDER))
    originals = store.path / version_name(source)
    number = source
    for i, number in enumerate(numbers):
        directory = os.path.join(store.path, version_name(number))  # noqa: PTH118 - half the time, a hundred thousand times
        os.mkdir(directory)  # noqa: PTH102
        if i < _WHOLE:
            for name in manifest.files:
                (store.path / directory / name).hardlink_to(originals / name)
        with open(f"{directory}/{MANIFEST_NAME}", "wb") as file:  # noqa: PTH123
            file.write(template.replace(str(_PLACEHOLDER).encode(), str(number).encode()))
    (store.path / mark_name(number)).touch()
    with suppress(FileNotFoundError):
        (store.path / mark_name(source)).unlink()
