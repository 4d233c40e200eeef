"""Small versions for store tests: real manifests around bytes that nobody will run."""

from collections.abc import Mapping

from shared.policy.manifest import FileEntry, Manifest, ProbeEntry, ProgramEntry
from shared.policy.signature import acting_signature
from shared.policy.spaces import ActionSpec, ObservationLeaf

SIGNATURE = acting_signature(
    (ObservationLeaf((), "box", "float32", (4,)),), ActionSpec("discrete", "int64", (), (2,), (0,))
)


def sample_files(content: bytes = b"weights of a small policy") -> dict[str, bytes]:
    """The files of one version; ``content`` tells versions apart."""
    return {"policy.ts": b"program\0" * 64, "weights.safetensors": content, "probe.safetensors": b"probe"}


def sample_manifest(version: int, entries: Mapping[str, FileEntry]) -> Manifest:
    """What a publisher's ``describe`` gives for ``sample_files``."""
    return Manifest(
        version=version,
        run_id="run",
        env_id="CartPole-v1",
        created_unix_s=0.0,
        signature=SIGNATURE,
        programs=(ProgramEntry("torchscript", "policy.ts", "0" * 64),),
        files=dict(entries),
        weights="weights.safetensors",
        probe=ProbeEntry("probe.safetensors", 1e-5, 1e-5),
    )
