"""Programs that reach for files, memory and time, with the permission to use any operator: only the sandbox is left."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actor.agent_options import TrustOptions
from actor.sandbox.landlock import landlock_version
from actor.sandbox.program_sandbox import SandboxLimits
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import OBSERVATIONS, MakeAgent, eager, make_policy, publish_seed, quiet_noise
from tests.support.bad_programs import Hangs, publish_program
from tests.support.captured_logs import CapturedLogs
from tests.support.impure_policies import AroundPolicy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have resource limits only")


class MapsFile(AroundPolicy):
    """Maps ``path`` into memory while it acts. Shared, it creates the file, or writes to it."""

    def __init__(self, path: Path, size: int, *, shared: bool) -> None:
        super().__init__()
        self.path = str(path)
        self.size = size
        self.shared = shared

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        mapped = torch.from_file(self.path, self.shared, self.size, dtype=torch.uint8)
        if self.shared:
            mapped[0] = 1
        return self.policy([inputs[0] + 0 * mapped[0], inputs[1]])


class _CreatesFile(nn.Module):
    """Creates ``path`` in ``__setstate__``, which TorchScript runs while it unpacks an archive."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        mapped = torch.from_file(self.path, True, 10, dtype=torch.uint8)  # used, or it would be left out
        self.training = bool(mapped[0] > 0)

    def forward(self, x: Tensor) -> Tensor:
        return x


class MapsFileWhileItLoads(AroundPolicy):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.part = _CreatesFile(path)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy([self.part(inputs[0]), inputs[1]])


class ManySmallArrays(AroundPolicy):
    """Needs more address space with each lap, in pieces below the threshold of mmap."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        kept: list[Tensor] = []
        while len(kept) < 2**40:
            kept.append(inputs[0].repeat(500, 1))
        return self.policy([inputs[0] + 0 * kept[0][:1], inputs[1]])


def _program(name: str, directory: Path) -> AroundPolicy:
    programs = {
        "a new file": lambda: MapsFile(directory / "new", 10, shared=True),
        "a new file while it loads": lambda: MapsFileWhileItLoads(directory / "new"),
        "a large file": lambda: MapsFile(directory / "new", 2**33, shared=True),
        "another content for a file": lambda: MapsFile(directory / "private", 6, shared=True),
        "a file of the system": lambda: MapsFile(Path("/etc/passwd"), 10, shared=False),
        "a file of the user": lambda: MapsFile(directory / "private", 6, shared=False),
        "memory in small pieces": ManySmallArrays,
        "all of a processor's time": Hangs,
    }
    return programs[name]()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a new file", "Permission denied"),
        pytest.param("a new file while it loads", "Permission denied", marks=pytest.mark.slow),
        pytest.param("a large file", "Permission denied", marks=pytest.mark.slow),
        pytest.param("another content for a file", "Permission denied", marks=pytest.mark.slow),
        pytest.param("a file of the system", "Permission denied", marks=pytest.mark.slow),
        pytest.param("a file of the user", "Permission denied", marks=pytest.mark.slow),
        pytest.param("memory in small pieces", "GiB of memory that the sandbox allows", marks=pytest.mark.slow),
        pytest.param("all of a processor's time", "used more CPU time than the sandbox allows", marks=pytest.mark.slow),
    ],
)
def test_it_is_refused_and_the_actor_keeps_acting(
    name: str, reason: str, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs, tmp_path: Path
) -> None:
    if reason == "Permission denied" and not landlock_version():
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "private").write_text("secret")
    limits = SandboxLimits(timeout_s=100.0, cpu_s=1.0 if "time" in name else 100.0, memory_bytes=2**29)
    agent = make_agent(sandbox=limits, trust=TrustOptions(trust_programs=True))
    publish_seed(store, 0)
    agent.reset()
    bad = publish_program(store, _program(name, tmp_path))
    (tmp_path / "new").unlink(missing_ok=True)  # by the export, in this process
    (tmp_path / "private").write_text("secret")
    agent.reset()
    assert agent.policy.version == 0
    (expected, *_) = eager(make_policy(seed=0), OBSERVATIONS, quiet_noise(make_policy(), 3))
    np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected)
    (line,) = captured_logs.lines_with(f"version {bad.version} quarantined")
    assert reason in line
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "private").read_text() == "secret"
