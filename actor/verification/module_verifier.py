"""The verifier of exported modules."""

from shared.engines.engine import Engine
from shared.errors import PolicyOutputError, ProgramError
from shared.policy.module_signature import ModuleSignature
from shared.policy.probe import compare_outputs, decode_probe
from shared.store.policy_store import VersionFiles

_CALLS = 3


class ModuleVerifier:
    """Compares engines of an exported module, or of a policy called as one, with the version's probe."""

    def __init__(self, files: VersionFiles, signature: ModuleSignature) -> None:
        manifest = files.manifest
        data = files.read(manifest.probe.file)
        is_module = isinstance(manifest.module, ModuleSignature)
        self._probe = decode_probe(data, signature if is_module else manifest.signature)
        self._names = [spec.name for spec in signature.outputs]
        self._tolerance = (manifest.probe.atol, manifest.probe.rtol)

    def verify(self, engine: Engine) -> None:
        """Raise ProbeMismatch or ProgramError unless ``engine`` reproduces the probe; the engine is warm afterwards."""
        for _ in range(_CALLS):
            try:
                found = engine.run(self._probe.inputs)
            except PolicyOutputError as error:
                raise ProgramError(str(error)) from error
            compare_outputs(self._names, self._probe.outputs, found, *self._tolerance)
