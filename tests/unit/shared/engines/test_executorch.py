"""ExecuTorch programs are loaded with permission only, and run as the module that they were made of."""

import hashlib
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from actor.acting.module_call import load_policy
from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.sandbox.program_sandbox import SandboxLimits
from learner.export.module_export import export_module
from learner.export.policy_export import PolicyExporter
from shared.engines.executorch_program import DataLayout, ExecutorchProgram, encode_program
from shared.engines.load import load_program
from shared.errors import HotswapError, NotTrusted, PolicyOutputError, ProgramError, ProgramUnsupported
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import ProgramEntry
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import eager, make_policy, publish, quiet_noise
from tests.support.policies import make_version
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy

NATIVE = ProgramTrust(native=True)


def load(program: bytes, trust: ProgramTrust) -> None:
    """Load a version of a small policy that has ``program`` as its only one."""
    policy = TinyPolicy()
    version = make_version(PolicyExporter(policy, TINY_SIGNATURE, onnx=False), policy.state_dict())
    entry = ProgramEntry("executorch", "policy.pte", hashlib.sha256(program).hexdigest())
    manifest = msgspec.structs.replace(version.manifest, programs=(entry,))
    files = {**version.files, entry.file: program}
    load_program("executorch", files.__getitem__, manifest, trust=trust)


def test_a_program_without_permission_is_refused() -> None:
    with pytest.raises(NotTrusted, match="--trust-native"):
        load(b"anything", ProgramTrust(programs=True))


def test_without_the_library_a_program_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shared.engines.executorch", None)
    with pytest.raises(ProgramUnsupported, match=r"rl-hotswap\[executorch\]"):
        load(b"anything", NATIVE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"anything", "no ExecuTorch program with a layout"),
        (encode_program(ExecutorchProgram(bytes(4096), DataLayout(b"", 0, (), None, False))), "ExecuTorch: "),
    ],
    ids=["no layout", "no program"],
)
def test_a_file_that_is_no_program_is_refused(program: bytes, message: str) -> None:
    pytest.importorskip("executorch", reason="the extra executorch is not installed")
    with pytest.raises(ProgramError, match=message):
        load(program, NATIVE)


class Seen(nn.Module):
    """An image network. XNNPACK computes constants from the weights of its normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(36, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.look(image.float() / 255))


@pytest.mark.slow
def test_a_module_is_exported_with_its_limits_and_one_program_for_all_weights(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="the extra executorch is not installed")
    digests = set()
    for seed in range(2):
        torch.manual_seed(seed)
        module, image = Seen().eval(), torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
        report = export_module(module, (image,), tmp_path / str(seed), how="executorch")
        digests |= {program.program_digest for program in report.manifest.programs}
        loaded = load_policy(report.directory, trust_native=True, sandbox=None)
        assert loaded.engine.kind == "executorch"
        many = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(loaded(many), module(many), atol=1e-5, rtol=1e-5)
    assert len(digests) == 1
    with pytest.raises(PolicyOutputError, match="call it with at most 1000 rows"):
        loaded(torch.zeros((1001, 3, 8, 8), dtype=torch.uint8))
    with pytest.raises(HotswapError, match="none of its programs can be run"):
        load_policy(report.directory, sandbox=None)


@pytest.mark.slow
def test_an_agent_runs_it_in_the_sandbox_first_and_takes_new_weights(store: LocalPolicyStore) -> None:
    pytest.importorskip("executorch", reason="the extra executorch is not installed")
    rows, first = 300, make_policy(network="lstm")
    made_by = PolicyExporter(first, first.signature, programs=("torchscript", "executorch"))
    options = AgentOptions(
        num_envs=rows,
        engine="executorch",
        deterministic=True,
        synchronous=True,
        trust=TrustOptions(trust_native=True),
        sandbox=SandboxLimits(timeout_s=100.0),
    )
    with Agent(store, options) as agent:
        for seed in range(2):
            policy = make_policy(network="lstm", seed=seed)
            publish(store, policy, made_by)
            agent.reset()
            assert (agent.policy.version, agent.policy.engine_name) == (seed, "executorch")
            observation = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
            state = [np.zeros((rows, 4), np.float32)] * 2
            action, *_ = eager(policy, observation, *state, quiet_noise(policy, rows))
            np.testing.assert_array_equal(agent.act(observation), action)
