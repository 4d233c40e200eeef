"""Manifests, and what readers compute from one that was accepted."""

import contextlib
import json
from random import Random

from actor.verification.version_checks import check_signature
from scripts.fuzz.json_mutation import mutate_json
from shared.errors import ManifestError, SignatureMismatch
from shared.policy.manifest import decode_manifest, encode_manifest
from shared.policy.nested_values import leaf_names, unflatten
from shared.policy.signature import ModuleSignature


def run(data: bytes) -> None:
    """Decode ``data`` and use the manifest as readers do."""
    manifest = decode_manifest(data)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert len(manifest.digest) == 64
    assert json.loads(data)["version"] == manifest.version
    signature = manifest.signature
    assert len(signature.input_names) == len(signature.inputs)
    with contextlib.suppress(ManifestError):
        check_signature(signature)
    if isinstance(manifest.module, ModuleSignature):
        for structure in (manifest.module.arguments, manifest.module.result):
            with contextlib.suppress(SignatureMismatch):
                unflatten(structure, [0] * len(leaf_names(structure)))


def mutate(data: bytes, random: Random) -> bytes:
    """Change one value of the JSON."""
    return mutate_json(data, random)
