"""Who published a version, or began a run: checked before anything else about it is believed."""

from collections.abc import Sequence

from shared.errors import NotAuthentic
from shared.policy.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from shared.policy.signing import SIGNATURE_BYTES, PublicKey
from shared.store.policy_store import PolicyStore
from shared.store.version_files import VersionFiles


class Authenticity:
    """What one reader demands of versions: signed with one of ``keys``, and of one run.

    ``manifest.sig`` signs the bytes of ``manifest.json``, and so the digest of every file, the version's number, the
    run's id and the time. Without ``keys`` everything passes. ``run_id`` is the run's where that is known; else the
    first version that was made ready decides (``pin``): whoever can write into the store without having a key could
    otherwise exchange runs that were signed with the same one.
    """

    def __init__(self, keys: Sequence[PublicKey] = (), run_id: str | None = None) -> None:
        self.keys = tuple(keys)
        self.run_id = run_id
        """The run that versions have to be of; None while that is not settled."""

    def open(self, store: PolicyStore, version: int) -> VersionFiles:
        """``store.open(version)``, with ``check``: a flaw is read once more before it is believed.

        Raises what both raise.
        """
        files = store.open(version)
        try:
            self.check(files)
        except NotAuthentic:
            files = store.open(version)
            self.check(files)
        return files

    def check(self, files: VersionFiles) -> None:
        """Raise NotAuthentic unless the version is what is demanded, or what ``read_signature`` raises."""
        if not self.keys:
            return
        self.signer(files)
        if self.run_id is not None and files.manifest.run_id != self.run_id:
            raise NotAuthentic(
                f"{files.location}: signed for run {files.manifest.run_id!r}, and this is run {self.run_id!r}: "
                "versions of another run were put here; whoever is to act with them has to be started anew"
            )

    def signer(self, files: VersionFiles) -> PublicKey:
        """The key that the version is signed with. Raises NotAuthentic where it is none of ``keys``."""
        signature = files.read_signature()
        accepted = " or ".join(key.short for key in self.keys)
        where = f"{files.location}/{SIGNATURE_NAME}"
        if signature is None:
            raise NotAuthentic(
                f"{where}: not there, so the version is not signed; expected a signature by {accepted} (--signing-key)"
            )
        if len(signature) != SIGNATURE_BYTES:
            size = "more" if len(signature) > SIGNATURE_BYTES else str(len(signature))
            raise NotAuthentic(f"{where}: expected a signature of {SIGNATURE_BYTES} bytes, found {size}")
        for key in self.keys:
            if key.verifies(signature, files.manifest_bytes):
                return key
        raise NotAuthentic(
            f"{where}: no signature by {accepted}: it was made with another key, or {MANIFEST_NAME} was changed since"
        )

    def pin(self, manifest: Manifest) -> None:
        """From now on only versions of this one's run, where no run was named."""
        if self.run_id is None:
            self.run_id = manifest.run_id
