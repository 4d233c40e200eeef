"""Ten minutes of chaos: everything bad at random, to a real training. RL_HOTSWAP_CHAOS_SEED says which random."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CHAOS = Path(__file__).parents[2] / "scripts" / "chaos.py"


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_ten_minutes_of_chaos_break_no_promise() -> None:
    seed = os.environ.get("RL_HOTSWAP_CHAOS_SEED", "1")
    done = subprocess.run(
        [sys.executable, str(_CHAOS), "--minutes=10", f"--seed={seed}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
