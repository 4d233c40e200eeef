"""Memory that runs out while a version is loaded: the load fails now and may work later."""

import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from actor.verification.version_checks import check_memory, is_out_of_memory
from shared.errors import ProgramError, TransientLoadError
from shared.policy.manifest import FileEntry
from tests.support.paths import REPOSITORY
from tests.support.sample_versions import sample_files, sample_manifest

# Weights of 80 MB, which are allowed, and a limit on this process's memory, which is real.
_SMALL_MEMORY = """
import pathlib, resource, sys
import torch
from loguru import logger
from torch import Tensor, nn
logger.remove()
logger.add(sys.stdout, format="{message}")
import numpy as np
from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.export.policy_export import PolicyExporter
from tests.support.agent_policies import local_store, make_policy, publish, publish_seed
from tests.support.waiting import until

class Heavy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.policy = make_policy(seed=1)
        self.signature = self.policy.signature
        self.register_buffer("ballast", torch.zeros(20_000_000))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        return [action, log_prob, value + self.ballast[0]]

store = local_store(pathlib.Path(sys.argv[1]))
publish_seed(store, 0)
heavy = Heavy()
made_by = PolicyExporter(heavy, heavy.signature, onnx=False)
publish(store, heavy, made_by)
del heavy, made_by

def data_bytes() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()

before = resource.getrlimit(resource.RLIMIT_DATA)
with Agent(store, AgentOptions(num_envs=3, synchronous=True, deadline_s=0.0, sandbox=None)) as agent:
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + int(sys.argv[2]) * 10**6, before[1]))
    for _ in range(2):
        agent.reset()
        agent.act(np.zeros((3, 4), np.float32))
    resource.setrlimit(resource.RLIMIT_DATA, before)
    assert not store.quarantined()
    until(lambda: agent.adopt().version == 1, 60.0)
    agent.act(np.zeros((3, 4), np.float32))
"""


def test_a_version_larger_than_free_memory_is_not_loaded() -> None:
    entries = {name: FileEntry(sha256="0" * 64, size_bytes=1000) for name in sample_files()}
    manifest = sample_manifest(0, entries)
    check_memory(manifest)
    huge = entries | {manifest.weights: FileEntry(sha256="0" * 64, size_bytes=psutil.virtual_memory().total)}
    with pytest.raises(TransientLoadError, match=r"loading it takes about .* GiB of memory, and .* GiB are left"):
        check_memory(msgspec.structs.replace(manifest, files=huge))


def test_native_code_reports_failed_allocations_by_message() -> None:
    said = ProgramError("torch.jit.load: RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to …")
    assert is_out_of_memory(said)
    wrapped = ProgramError("one of its programs cannot be run")
    wrapped.__cause__ = ValueError("I/O operation on closed file")  # by the end of a with statement
    assert not is_out_of_memory(wrapped)
    wrapped.__cause__.__context__ = MemoryError()
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(ProgramError("no such operator"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such limit")
@pytest.mark.parametrize(
    ("megabytes", "says"),
    [
        pytest.param(60, "could not read ", id="to read the file"),
        pytest.param(120, "not enough memory: ProgramError: memory of the weights: ", id="to load the program"),
    ],
)
def test_a_version_for_which_memory_is_short_is_tried_again_and_adopted_when_there_is_enough(
    tmp_path: Path, megabytes: int, says: str
) -> None:
    """Each case runs in its own process: a process that had more memory keeps some of it."""
    done = subprocess.run(
        [sys.executable, "-c", _SMALL_MEMORY, str(tmp_path / "policies"), str(megabytes)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "policy version 0 adopted" in done.stdout
    assert f"will be retried reason=TransientLoadError: {says}" in done.stdout
    assert "quarantined reason" not in done.stdout
    assert done.stdout.count("policy version 1 adopted") == 1
