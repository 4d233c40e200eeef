"""The prefetcher process: it watches the store, verifies new versions, and offers those that may act.

``prefetcher`` starts it once the actor has a program, and only for versions of that program: it compiles the same code
and packs weights the same way, so that the actor only copies a block. It leaves every other version, and every version
that fails, to the actor's loader, which finds the fault again and reports it. So it runs only a program that has
passed the sandbox, and that does the same work for all weights.
"""

import os
import sys
from pathlib import Path

import msgspec

from actor.prefetch.prefetch_config import PrefetchConfig
from actor.prefetch.shared_weights import Offer, SharedWeights
from actor.verification.probe_verifier import ProbeVerifier
from actor.versions.quarantine_cache import QuarantineCache
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp, wake
from shared.engines.llvm import LlvmEngine
from shared.engines.load import PROGRAM_OF, load_program
from shared.errors import ManifestError, PolicyLoadError, StoreError, VersionNotFound
from shared.operators.program_trust import ProgramTrust
from shared.policy.probe import decode_probe
from shared.policy.signing import PublicKey
from shared.policy.weights import decode_weights
from shared.process.process_guard import die_with_parent
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, VersionFiles

_MAX_TRIED = 8  # of the newest versions, in search of the actor's program


def main() -> None:
    """Watch until the actor is gone. Exit if the store does not answer, or if the compiled code is another."""
    die_with_parent()
    prefetcher = _PrefetchWorker(msgspec.json.decode(sys.argv[1], type=PrefetchConfig))
    try:
        prefetcher.watch()
    except StoreError as error:
        sys.exit(str(error))


class _PrefetchWorker:
    def __init__(self, config: PrefetchConfig) -> None:
        self._config = config
        self._shared_weights = SharedWeights(config.shared_weights, config.block_floats)
        self._store = LocalPolicyStore(Path(os.fsdecode(config.store)))
        self._woken = WakeUp()
        self._watcher = PolicyWatcher(self._store, self._woken)
        self._authenticity = Authenticity([PublicKey(raw) for raw in config.public_keys], config.run_id)
        directory = config.quarantine_directory
        self._cache = None if directory is None else QuarantineCache(Path(os.fsdecode(directory)))
        self._engine: LlvmEngine | None = None
        self._done = config.version

    def watch(self) -> None:
        """Verify what is new, for ever. Raises StoreError."""
        self._watcher.start()
        while True:
            self._watcher.check()
            if self._engine is None:
                self._compile()
            while self._engine is not None and self._watcher.known and self._watcher.known[-1] > self._done:
                self._handle(self._watcher.known[-1])
                if not self._watcher.has_events or self._watcher.is_listing_due:
                    self._watcher.check()  # lists, so that versions that were removed are forgotten
            self._woken.wait(self._watcher.interval_s)

    def _compile(self) -> None:
        for version in self._watcher.known[: -_MAX_TRIED - 1 : -1]:
            try:
                files = self._open(version)
                outputs = self._verifier(files).outputs
                # It is the program that the actor runs, which has checked its operators.
                trust = ProgramTrust(programs=True)
                engine = load_program("llvm", files.read, files.manifest, trust=trust, outputs=outputs)
            except (PolicyLoadError, VersionNotFound):
                continue
            assert isinstance(engine, LlvmEngine)
            if engine.code_digest != self._config.code_digest:
                sys.exit("restart the actor: its package was changed, and this process compiles other code")
            self._engine = engine
            self._shared_weights.begin()
            wake(self._config.wake)
            return

    def _handle(self, version: int) -> None:
        self._done = version
        try:
            offer = self._verify(version)
        except Exception:  # noqa: BLE001 - the actor's loader finds it again, decides and reports
            self._shared_weights.refuse(version)
            wake(self._config.wake)
        else:
            assert self._engine is not None
            self._shared_weights.offer(offer, self._engine.block)
            wake(self._config.news)

    def _verify(self, version: int) -> Offer:
        assert self._engine is not None
        files = self._open(version)
        self._engine.load_weights(decode_weights(files.read(files.manifest.weights)))
        self._verifier(files).verify(self._engine.run)
        files.verify_others()
        return Offer(version, files.manifest.digest, files.manifest_bytes)

    def _open(self, version: int) -> VersionFiles:
        """Open ``version``. Raises ManifestError for one that is left to the actor's loader."""
        files = self._authenticity.open(self._store, version)
        manifest = files.manifest
        entry = manifest.program(PROGRAM_OF["llvm"])
        if entry is None or entry.program_digest != self._config.program_digest:
            raise ManifestError("another program")
        if manifest.signature != self._config.signature:
            raise ManifestError("another signature")
        if self._cache is not None and self._cache.reason(manifest.digest) is not None:
            raise ManifestError("a content that failed before")
        return files

    def _verifier(self, files: VersionFiles) -> ProbeVerifier:
        manifest = files.manifest
        probe = decode_probe(files.read(manifest.probe.file), manifest.signature)
        return ProbeVerifier(manifest, probe, self._config.batch_size, values=self._config.values)


if __name__ == "__main__":
    main()
