"""Policy versions made before a measurement, in a store that no actor watches. Publishing them needs no torch."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import msgspec

from shared.policy.manifest import MANIFEST_NAME, FileEntry, Manifest, ProbeEntry, ProgramEntry, encode_manifest
from shared.store.policy_store import LocalPolicyStore, PolicyStore, version_name
from shared.store.version_files import mark_name

if TYPE_CHECKING:
    from torch import Tensor

    from learner.networks.acting_policy import ActingPolicy

ENV_ID = "CartPole-v1"
TEMPORARY_PREFIX = "rl-hotswap-benchmark-"
SMALL = (64, 64)
LARGE = (1600,) * 11
"""Hidden sizes of a network of 103 MB."""

_COMPLETE = 1_000  # versions of a call with all files, the oldest first: those that a sweep removes
_PLACEHOLDER = 987_654_321_987_654_321

_MadeFiles = tuple[dict[str, bytes], tuple[ProgramEntry, ...], ProbeEntry]
_MakeFiles = Callable[[Mapping[str, "Tensor"]], _MadeFiles]


@dataclass(frozen=True)
class PreparedVersion:
    """The files of one version in memory, and its manifest under its number in the prepared store."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def publish(self, store: PolicyStore) -> Manifest:
        """Commit the version as the newest of ``store``, as a learner's publisher does."""

        def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
            return msgspec.structs.replace(self.manifest, version=version, files=entries, created_unix_s=time.time())

        return store.publish(self.files, describe, durable=False)


def read_prepared_versions(path: Path) -> list[PreparedVersion]:
    prepared = LocalPolicyStore(path)
    opened = [prepared.open(version) for version in prepared.versions()]
    return [PreparedVersion(one.manifest, {name: one.read(name) for name in one.manifest.files}) for one in opened]


class Workspace(NamedTuple):
    """The directories of a measurement: prepared versions, the store that is acted from, and log files."""

    prepared: Path
    store: Path
    logs: Path


class Preparation(TypedDict, total=False):
    hidden_sizes: tuple[int, ...]
    onnx_alone: bool


@contextmanager
def workspace(*, versions: int, change: float, **how: Unpack[Preparation]) -> Iterator[Workspace]:
    """Make a temporary directory with prepared versions; the arguments are those of ``prepare_versions``."""
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory:
        found = Workspace(*(Path(directory) / name for name in Workspace._fields))
        prepare_versions(found.prepared, versions=versions, change=change, **how)
        yield found


def prepare_versions(
    path: Path, *, versions: int, change: float, hidden_sizes: tuple[int, ...] = SMALL, onnx_alone: bool = False
) -> Manifest:
    """Publish untrained CartPole policies at ``path``, each with all weights changed; return the last manifest.

    ``change`` is the standard deviation of the change of each tensor, relative to the tensor's own. Sizes other than
    ``SMALL`` make one trunk. ``onnx_alone`` omits TorchScript, which takes minutes for large networks. Imports torch.
    """
    import torch

    from learner.export.policy_export import PolicyExporter
    from learner.networks.acting_policy import ActingPolicy
    from learner.networks.network_config import Activation, NetworkConfig
    from shared.engines.eager import module_tensors
    from shared.policy.manifest import WEIGHTS_FILE
    from shared.run.environment_description import describe_environment

    assert versions > 0
    environment = describe_environment(ENV_ID)
    is_small = hidden_sizes == SMALL
    activation: Activation = "tanh" if is_small else "relu"  # rounding errors grow with depth in untrained tanh layers
    network = NetworkConfig(hidden_sizes=hidden_sizes, shared_trunk=not is_small, activation=activation)
    generator = torch.Generator().manual_seed(0)
    policy = ActingPolicy(environment.leaves, environment.action, network, environment.masked, generator).eval()
    make_files = _onnx_files(policy) if onnx_alone else PolicyExporter(policy, policy.signature).files
    first = {name: tensor.clone() for name, tensor in module_tensors(policy).items()}
    # Single numbers and biases, which begin as zeros, change by 1.
    spread = {name: float(tensor.std()) or 1.0 if tensor.numel() > 1 else 1.0 for name, tensor in first.items()}
    for _ in range(versions):
        noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()}
        weights = {name: tensor + change * spread[name] * noise[name] for name, tensor in first.items()}
        files, programs, probe = make_files(weights)
        manifest = Manifest(
            version=0,
            run_id="benchmark",
            env_id=ENV_ID,
            created_unix_s=1e9,
            signature=policy.signature,
            programs=programs,
            files={},
            weights=WEIGHTS_FILE,
            probe=probe,
        )
        manifest = PreparedVersion(manifest, files).publish(LocalPolicyStore(path))
    return manifest


def _onnx_files(policy: "ActingPolicy") -> _MakeFiles:
    import torch

    from learner.export.flat_module import copy_for_export
    from learner.export.inputs.dynamic_sizes import EXAMPLE_ROWS
    from learner.export.onnx_export import export_onnx
    from learner.export.policy_export import policy_interface
    from shared.engines.eager import module_tensors
    from shared.policy.manifest import ONNX_FILE, PROBE_FILE, WEIGHTS_FILE
    from shared.policy.probe import PROBE_ATOL, PROBE_RTOL, compute_probe, encode_probe, make_inputs
    from shared.policy.program_digest import program_digest
    from shared.policy.weights import encode_weights, tensor_places

    tensors = module_tensors(policy)
    places = tensor_places(encode_weights({name: tensor.numpy() for name, tensor in tensors.items()}))
    example = [torch.from_numpy(array) for array in make_inputs(policy.signature, EXAMPLE_ROWS, seed=0)]
    graph = export_onnx(copy_for_export(policy), policy_interface(policy.signature, example), places)

    def make_files(weights: Mapping[str, "Tensor"]) -> _MadeFiles:
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])
        files = {
            WEIGHTS_FILE: encode_weights({name: tensor.numpy() for name, tensor in tensors.items()}),
            PROBE_FILE: encode_probe(compute_probe(policy, policy.signature), policy.signature),
            ONNX_FILE: graph,
        }
        programs = (ProgramEntry("onnx", ONNX_FILE, program_digest("onnx", graph)),)
        return files, programs, ProbeEntry(PROBE_FILE, PROBE_ATOL, PROBE_RTOL)

    return make_files


def add_versions(store: LocalPolicyStore, numbers: Iterable[int]) -> None:
    """Add copies of the newest version under the ascending ``numbers``, as hard links, and raise the store's mark.

    Versions after the first thousand have a manifest alone: complete ones would take minutes to remove.
    """
    source = store.newest()
    assert source is not None
    manifest = store.open(source).manifest
    template = encode_manifest(msgspec.structs.replace(manifest, version=_PLACEHOLDER))
    originals = store.path / version_name(source)
    number = source
    for i, number in enumerate(numbers):
        directory = os.path.join(store.path, version_name(number))  # noqa: PTH118 - half the time of pathlib
        os.mkdir(directory)  # noqa: PTH102
        if i < _COMPLETE:
            for name in manifest.files:
                (store.path / directory / name).hardlink_to(originals / name)
        with open(f"{directory}/{MANIFEST_NAME}", "wb") as file:  # noqa: PTH123
            file.write(template.replace(str(_PLACEHOLDER).encode(), str(number).encode()))
    (store.path / mark_name(number)).touch()
    with suppress(FileNotFoundError):
        (store.path / mark_name(source)).unlink()
