"""``python scripts/chaos.py`` for a short time: random faults in a real training violate no invariant."""

import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [pytest.param(1, id="signed"), pytest.param(2, id="unsigned")])
def test_a_little_chaos_breaks_no_promise(seed: int) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "chaos.py"), "--minutes=0.2", f"--seed={seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
