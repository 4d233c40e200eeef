"""Real policies in real stores and run directories, made fast: one export for each kind, then only new weights."""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from actor.agent import Agent
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from learner.publishing.policy_publisher import PolicyPublisher
from shared.engines.engine import Engine, EngineKind
from shared.policy.manifest import WEIGHTS_FILE, FileEntry, Manifest, TrainingProgress
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.run.environment_description import describe_environment
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore, PolicyStore, Retention
from shared.store.version_files import Sign

MakeAgent = Callable[..., Agent]
OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
VECTOR = (ObservationLeaf((), "box", "float32", (4,)),)
NESTED = (
    ObservationLeaf(("camera", 0), "image", "uint8", (8, 8, 1)),
    ObservationLeaf(("speed",), "box", "float32", (3,)),
)
ACTIONS = {
    "discrete": ActionSpec("discrete", "int64", (), (3,), (0,)),
    "discrete_from_5": ActionSpec("discrete", "int64", (), (3,), (5,)),
    "multi_discrete": ActionSpec("multi_discrete", "int64", (2,), (3, 2), (0, 0)),
    "multi_binary": ActionSpec("multi_binary", "int8", (3,)),
    "box": ActionSpec("box", "float32", (2,), low=(-1.0, None), high=(1.0, None)),
}


def make_policy(
    *, action: str = "discrete", nested: bool = False, network: str = "mlp", masked: bool = False, seed: int = 0
) -> ActingPolicy:
    """Return a small untrained policy. Policies that differ only in ``seed`` have the same program."""
    config = NetworkConfig(kind=network, hidden_sizes=(8,), recurrent_size=4, shared_trunk=True)
    generator = torch.Generator().manual_seed(seed)
    policy = ActingPolicy(NESTED if nested else VECTOR, ACTIONS[action], config, masked, generator)
    with torch.no_grad():  # fresh heads are nearly uniform: then every version would act alike
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    return policy.eval()


def no_spare(kind: EngineKind, program_digest: str) -> Engine | None:
    """Return no engine whose weights may be overwritten."""
    return None


class TouchyPolicy(nn.Module):
    """Acts well until the first number of an observation exceeds a limit; then outputs are NaN or an action is illegal.

    No check can find that beforehand. The limits are weights: good and bad versions have the same program.
    """

    def __init__(self, *, nan_above: float = 1e30, illegal_above: float = 1e30, seed: int = 0) -> None:
        super().__init__()
        self.policy = make_policy(seed=seed)
        self.signature = self.policy.signature
        self.register_buffer("nan_above", torch.tensor(nan_above))
        self.register_buffer("illegal_above", torch.tensor(illegal_above))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        first = inputs[0][:, 0]
        action = torch.where(first > self.illegal_above, action + 1000, action)
        log_prob = torch.where(first > self.nan_above, torch.full_like(log_prob, float("nan")), log_prob)
        value = torch.where(first > self.nan_above, torch.full_like(value, float("nan")), value)
        return [action, log_prob, value]


@functools.cache
def touchy_exporter() -> PolicyExporter:
    """Return the exporter for every TouchyPolicy, without ONNX."""
    policy = TouchyPolicy()
    return PolicyExporter(policy, policy.signature, onnx=False)


@functools.cache
def exporter(
    *, action: str = "discrete", nested: bool = False, network: str = "mlp", masked: bool = False, onnx: bool = False
) -> PolicyExporter:
    """Return the exporter for the policies of ``make_policy``. With ``onnx`` it takes seconds, once."""
    policy = make_policy(action=action, nested=nested, network=network, masked=masked)
    return PolicyExporter(policy, policy.signature, onnx=onnx)


def publish(
    store: PolicyStore,
    policy: nn.Module,
    made_by: PolicyExporter,
    *,
    instead: Mapping[str, bytes] | None = None,
    sign: Sign | None = None,
    **fields: object,
) -> Manifest:
    """Publish ``policy``. Files ``instead`` of the right ones and other manifest ``fields`` make bad versions."""
    files, programs, probe = made_by.files(policy.state_dict())
    files.update(instead or {})

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        given = {"run_id": "run", "created_unix_s": time.time()}
        described = given | {"signature": policy.signature, "programs": programs, "probe": probe, **fields}
        return Manifest(
            version=version,
            env_id=None,
            files=entries,
            weights=WEIGHTS_FILE,
            **described,  # type: ignore[arg-type]
        )

    return store.publish(files, describe, sign=sign)


def publish_seed(store: PolicyStore, seed: int, *, onnx: bool = False, **kind: object) -> Manifest:
    """Publish the policy of ``make_policy(seed=seed, **kind)``."""
    return publish(store, make_policy(seed=seed, **kind), exporter(onnx=onnx, **kind))  # type: ignore[arg-type]


def eager(policy: nn.Module, *inputs: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of ``policy`` in torch."""
    with torch.no_grad():
        return [output.numpy() for output in policy([torch.from_numpy(array) for array in inputs])]


def quiet_noise(policy: nn.Module, rows: int) -> np.ndarray:
    """Return the noise of a deterministic agent."""
    return np.zeros((rows, *policy.signature.action.noise_shape), np.float32)


def local_store(path: Path) -> LocalPolicyStore:
    """Return a store that does not wait for the disk."""
    return LocalPolicyStore(path, fsync=False)


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
