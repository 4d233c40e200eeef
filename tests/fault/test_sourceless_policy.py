"""The documented failure: a policy whose class has no source cannot be scripted, and actors run it all the same."""

import compileall
import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from shared.engines.eager import module_tensors
from shared.engines.importable import ImportablePolicy, encode_importable
from shared.errors import PolicyUnavailable
from shared.policy.manifest import FileEntry, Manifest, ProbeEntry, ProgramEntry
from shared.policy.probe import compute_probe, encode_probe
from shared.policy.weights import encode_weights
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import OBSERVATIONS, eager, make_policy, publish_seed
from tests.support.captured_logs import CapturedLogs

QUIET = np.zeros((3, 3), np.float32)

SOURCE = """
import torch
from torch import Tensor, nn

class Shipped(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, size)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        logits = self.linear(inputs[0])
        best = (logits + inputs[1]).argmax(-1)
        log_prob = torch.log_softmax(logits, -1).gather(-1, best.unsqueeze(-1)).squeeze(-1)
        return [best, log_prob, logits.sum(-1)]

class Undecided(Shipped):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = super().forward(inputs)
        rows = [row if row > 0 else 2 * row for row in value]
        return [action, log_prob, torch.stack(rows)]
"""

ShipPolicy = Callable[[str, int], Manifest]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of compiled code without source."""
    name = f"shipped_{tmp_path.name}"
    directory = tmp_path / "site" / name
    directory.mkdir(parents=True)
    (directory / "__init__.py").touch()
    (directory / "policies.py").write_text(SOURCE)
    assert compileall.compile_dir(directory, legacy=True, quiet=2)
    for source in directory.glob("*.py"):
        source.unlink()
    monkeypatch.syspath_prepend(directory.parent)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.fixture
def ship(store: LocalPolicyStore, package: str) -> ShipPolicy:
    """Publish a version whose only program is a class path into that package."""
    signature = make_policy().signature

    def publish(class_name: str, seed: int) -> Manifest:
        import torch

        torch.manual_seed(seed)
        module = getattr(importlib.import_module(f"{package}.policies"), class_name)(3).eval()
        importable = encode_importable(ImportablePolicy(f"{package}.policies:{class_name}", {"size": 3}))
        files = {
            "importable.json": importable,
            "weights.safetensors": encode_weights(
                {name: tensor.numpy() for name, tensor in module_tensors(module).items()}
            ),
            "probe.safetensors": encode_probe(compute_probe(module, signature), signature),
        }
        program = ProgramEntry("importable", "importable.json", hashlib.sha256(importable).hexdigest())

        def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
            return Manifest(
                version=version,
                run_id="run",
                env_id=None,
                created_unix_s=time.time(),
                signature=signature,
                programs=(program,),
                files=entries,
                weights="weights.safetensors",
                probe=ProbeEntry("probe.safetensors", 1e-5, 1e-5),
            )

        return store.publish(files, describe)

    return publish


def _agent(store: LocalPolicyStore, *trusted: str, synchronous: bool = True) -> Agent:
    deadline_s = 0.0 if synchronous else 60.0
    return Agent(
        store,
        AgentOptions(
            num_envs=3,
            deterministic=True,
            synchronous=synchronous,
            deadline_s=deadline_s,
            values=True,
            trust=TrustOptions(trusted_modules=trusted),
        ),
    )


def _module(package: str, class_name: str, seed: int):
    import torch

    torch.manual_seed(seed)
    return getattr(importlib.import_module(f"{package}.policies"), class_name)(3).eval()


@pytest.mark.parametrize("synchronous", [True, False])
def test_could_not_get_source_code_is_logged_and_the_next_method_acts(
    store: LocalPolicyStore, package: str, ship: ShipPolicy, captured_logs: CapturedLogs, synchronous: bool
) -> None:
    ship("Shipped", 1)
    with _agent(store, package, synchronous=synchronous) as agent:
        agent.reset()
        assert agent.policy.engine_name == "trace"
        expected = eager(_module(package, "Shipped", 1), OBSERVATIONS, QUIET)
        np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected[0])
    said = "WARNING | actor.agent:reset - version 0: trace taken; script said: could not get source code"
    assert captured_logs.lines.count(said) == 1


def test_new_weights_of_a_traced_policy_take_the_fast_path(
    store: LocalPolicyStore, package: str, ship: ShipPolicy, captured_logs: CapturedLogs
) -> None:
    with _agent(store, package) as agent:
        for seed in range(6):
            ship("Shipped", seed)
            agent.reset()
            assert (agent.policy.version, agent.policy.engine_name) == (seed, "trace")
            expected = eager(_module(package, "Shipped", seed), OBSERVATIONS, QUIET)
            np.testing.assert_allclose(agent.decide([OBSERVATIONS]).value, expected[2], rtol=1e-5)
    assert sum("could not get source code" in line for line in captured_logs.lines) == 3, (
        "three instances, then only weights"
    )


def test_a_policy_that_cannot_be_traced_either_runs_eagerly(
    store: LocalPolicyStore, package: str, ship: ShipPolicy, captured_logs: CapturedLogs
) -> None:
    ship("Undecided", 1)
    with _agent(store, package) as agent:
        agent.reset()
        assert agent.policy.engine_name == "eager"
        expected = eager(_module(package, "Undecided", 1), OBSERVATIONS, QUIET)
        np.testing.assert_allclose(agent.decide([OBSERVATIONS]).value, expected[2], rtol=1e-5)
    (line,) = [line for line in captured_logs.lines if "eager taken" in line]
    assert "script said: could not get source code; trace said: " in line


def test_untrusted_class_is_not_imported_and_the_last_good_version_acts(
    store: LocalPolicyStore, package: str, ship: ShipPolicy, captured_logs: CapturedLogs
) -> None:
    publish_seed(store, 0)
    with _agent(store) as agent:
        agent.reset()
        ship("Shipped", 1)
        del sys.modules[f"{package}.policies"]
        agent.reset()
        agent.act(OBSERVATIONS)
        assert agent.policy.version == 0
    assert f"{package}.policies" not in sys.modules
    assert any("version 1 quarantined reason=NotTrusted" in line for line in captured_logs.lines)


def test_a_class_that_is_gone_is_a_permanent_fault(store: LocalPolicyStore, package: str, ship: ShipPolicy) -> None:
    ship("Shipped", 1)
    sys.modules.pop(f"{package}.policies")
    sys.path.pop(0)
    importlib.invalidate_caches()
    sys.modules.pop(package)
    with (
        _agent(store, package) as agent,
        pytest.raises(PolicyUnavailable, match=r"version 0 \(quarantined\): ProgramError"),
    ):
        agent.reset()
