"""A policy that is not in training, published as one version."""

import time

from torch import nn

from learner.export.policy_export import PolicyExporter
from shared.engines.eager import module_tensors
from shared.policy.manifest import WEIGHTS_FILE, Manifest
from shared.policy.signature import PolicySignature
from shared.policy.signing import SigningKey
from shared.store.policy_store import PolicyStore


def publish_once(
    module: nn.Module,
    signature: PolicySignature,
    store: PolicyStore,
    *,
    run_id: str = "export",
    env_id: str | None = None,
    onnx: bool = True,
    aot: bool = False,
    signing_key: SigningKey | None = None,
) -> Manifest:
    """Export ``module``, publish it as the newest version of ``store``, and return what its manifest says.

    Nothing is swept. Raises ExportError where no program equals the module, StoreError where the store fails.
    """
    exporter = PolicyExporter(module, signature, onnx=onnx, aot=aot)
    files, programs, probe = exporter.files(module_tensors(module))
    return store.publish(
        files,
        lambda version, entries: Manifest(
            version=version,
            run_id=run_id,
            env_id=env_id,
            created_unix_s=time.time(),
            signature=signature,
            programs=programs,
            files=entries,
            weights=WEIGHTS_FILE,
            probe=probe,
            export=exporter.reports,
        ),
        sign=None if signing_key is None else signing_key.sign,
    )
