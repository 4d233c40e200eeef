"""A run directory with real versions in it, as a learner leaves it, but untrained."""

from pathlib import Path

import torch

from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from learner.publishing.policy_publisher import PolicyPublisher
from shared.policy.manifest import TrainingProgress
from shared.run.environment_description import describe_environment
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore, Retention


def publish_run(
    path: Path, env_id: str, *, versions: int = 1, network: NetworkConfig | None = None, onnx: bool = True
) -> RunDirectory:
    """``versions`` versions of differently initialised policies for ``env_id``, and its ``run.json``."""
    description = describe_environment(env_id)
    network = network or NetworkConfig(hidden_sizes=(8,), shared_trunk=True)

    def policy(seed: int) -> ActingPolicy:
        generator = torch.Generator().manual_seed(seed)
        return ActingPolicy(description.leaves, description.action, network, description.masked, generator).eval()

    run = RunDirectory(path).create()
    signature = policy(0).signature
    run.write_run_config(RunConfig("a-run", env_id, {}, 0, 32, signature, "ipc://@nobody-listens-here"))
    publisher = PolicyPublisher(
        PolicyExporter(policy(0), signature, onnx=onnx),
        LocalPolicyStore(run.policies),
        run_id="a-run",
        env_id=env_id,
        retention=Retention(),
        synchronous=True,
    )
    for version in range(versions):
        publisher.publish(policy(version), TrainingProgress(version, 100 * version, float(version), 20.0 + version))
    publisher.close()
    assert publisher.last_error is None
    return run
