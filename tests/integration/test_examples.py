"""The example programs run unchanged, and the conformance measurements of ``scripts/conformance`` hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.conformance import engine_agreement
from scripts.conformance.export_coverage import all_cases, measure, uncovered
from tests.support.paths import REPOSITORY

_EXAMPLES = REPOSITORY / "scripts" / "examples"


_PPO = "cleanrl_ppo.py"  # has a test of its own
_NATIVE = "native_cartpole.py"  # in test_native_agent.py


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted({path.name for path in _EXAMPLES.glob("[!_]*.py")} - {_PPO, _NATIVE}))
def test_an_example_runs(program: str, tmp_path: Path) -> None:
    command = [sys.executable, str(_EXAMPLES / program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_single_file_ppo_reaches_475_and_replaces_the_policy_of_an_actor(tmp_path: Path) -> None:
    command = [sys.executable, str(_EXAMPLES / _PPO)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    found = re.search(r"in training: ([\d.]+)\n.*acted with: (\d+) of .*\n.*version: ([\d.]+) of 10", done.stdout)
    assert found is not None, done.stdout[-500:]
    trained, versions, acted = map(float, found.groups())
    assert trained >= 475
    assert versions >= 3
    assert acted >= 475


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_engines_agree_on_a_nested_policy_with_state() -> None:
    agreements = {found.kind: found for found in engine_agreement.measure()}
    assert agreements.keys() - {"executorch"} == {"torchscript", "onnx", "aot", "compile"}
    for found in agreements.values():
        assert found.is_equal, found
        assert found.of_allowed <= 1, found


def test_every_class_of_torch_nn_has_a_case() -> None:
    assert not uncovered()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nearly_all_of_torch_nn_exports_by_some_method_and_equals_eager() -> None:
    outcomes = [measure(case) for case in all_cases()]
    refused = {outcome.name: outcome.reason for outcome in outcomes if outcome.method is None}
    assert len(outcomes) >= 120
    assert len(refused) <= 0.02 * len(outcomes), refused
    assert all(refused.values())
