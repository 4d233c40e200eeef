"""Verification of the signer and the run of a version. It precedes every other use of its manifest."""

from collections.abc import Sequence

from shared.errors import NotAuthentic
from shared.policy.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from shared.policy.signing import SIGNATURE_BYTES, PublicKey
from shared.store.policy_store import PolicyStore
from shared.store.version_files import VersionFiles


class Authenticity:
    """Requirements of a reader on versions: a signature by one of ``keys``, and one run.

    ``manifest.sig`` signs the bytes of ``manifest.json``. Without ``keys`` every version passes. If ``run_id`` is None,
    the first loaded version sets it (``pin``): a writer without a key could mix runs signed with the same key.
    """

    def __init__(self, keys: Sequence[PublicKey] = (), run_id: str | None = None) -> None:
        self.keys = tuple(keys)
        self.run_id = run_id
        """Id of the required run, or None before the first version."""

    def open(self, store: PolicyStore, version: int) -> VersionFiles:
        """Open ``version`` and ``check`` it; after a failure it is read once more. Raises the errors of both."""
        files = store.open(version)
        try:
            self.check(files)
        except NotAuthentic:
            files = store.open(version)
            self.check(files)
        return files

    def check(self, files: VersionFiles) -> None:
        """Raise NotAuthentic unless the version meets the requirements. Raises the errors of ``read_signature`` too."""
        if not self.keys:
            return
        self.signer(files)
        if self.run_id is not None and files.manifest.run_id != self.run_id:
            raise NotAuthentic(
                f"restart the actor to use another run: {files.location} is signed for run {files.manifest.run_id!r}, "
                f"and this is run {self.run_id!r}"
            )

    def signer(self, files: VersionFiles) -> PublicKey:
        """Return the key that signed the version. Raises NotAuthentic if it is none of ``keys``."""
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
        """Require the run of ``manifest`` from now on, if no run is required yet."""
        if self.run_id is None:
            self.run_id = manifest.run_id
