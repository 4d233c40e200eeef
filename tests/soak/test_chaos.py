"""Ten minutes of random faults for each of five seeds violate no invariant."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

_KILLS = 150  # for each seed


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_ten_minutes_of_chaos_break_no_promise(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "chaos.json"
    chaos = str(REPOSITORY / "scripts" / "chaos.py")
    command = [sys.executable, chaos, "--minutes=10", f"--seed={seed}", f"--json={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found = json.loads(path.read_text())
    assert all(checks["checked"] for checks in found["invariants"].values()), found["invariants"]
    kills = sum(times for fault, times in found["faults"].items() if fault.startswith("kill -9"))
    assert kills >= _KILLS, f"only {kills}: {found['faults']}"
