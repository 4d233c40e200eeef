"""Ten minutes of chaos for each of three seeds: everything bad at random, to a real training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

_CHAOS = REPOSITORY / "scripts" / "chaos.py"
_KILLS = 150  # of each seed; 450 together


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_minutes_of_chaos_break_no_promise(tmp_path: Path, seed: int) -> None:
    found = tmp_path / "chaos.json"
    command = [sys.executable, str(_CHAOS), "--minutes=10", f"--seed={seed}", f"--json={found}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = json.loads(found.read_text())
    assert all(kept["looked"] for kept in told["promises"].values()), told["promises"]
    faults = told["faults"]
    kills = sum(times for fault, times in faults.items() if fault.startswith("kill -9"))
    assert kills >= _KILLS, f"only {kills}: {faults}"
