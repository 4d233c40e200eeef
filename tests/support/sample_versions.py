"""Small versions for tests of stores: valid manifests of files that are never executed."""

from collections.abc import Mapping

from shared.policy.manifest import FileEntry, Manifest, ProbeEntry, ProgramEntry
from shared.policy.signature import acting_signature
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.store.policy_store import PolicyStore

SIGNATURE = acting_signature(
    (ObservationLeaf((), "box", "float32", (4,)),), ActionSpec("discrete", "int64", (), (2,), (0,))
)


def sample_files(content: bytes = b"weights of a small policy") -> dict[str, bytes]:
    """Return the files of a version whose weights are ``content``."""
    return {"policy.ts": b"program\0" * 64, "weights.safetensors": content, "probe.safetensors": b"probe"}


def sample_manifest(version: int, entries: Mapping[str, FileEntry]) -> Manifest:
    """Describe ``sample_files``, as publishers do."""
    return Manifest(
        version=version,
        run_id="run",
        env_id="CartPole-v1",
        created_unix_s=1e9,
        signature=SIGNATURE,
        programs=(ProgramEntry("torchscript", "policy.ts", "0" * 64),),
        files=dict(entries),
        weights="weights.safetensors",
        probe=ProbeEntry("probe.safetensors", 1e-5, 1e-5),
    )


def publish_sample(store: PolicyStore, content: bytes = b"weights") -> Manifest:
    """Publish a version with ``content`` as its weights."""
    return store.publish(sample_files(content), sample_manifest)


def publish_samples(store: PolicyStore, count: int) -> None:
    """Publish ``count`` versions with the weights ``weights 0``, ``weights 1`` and so on."""
    for i in range(count):
        publish_sample(store, b"weights %d" % i)
