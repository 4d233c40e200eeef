"""``python scripts/chaos.py`` for a little while: everything bad at random, to a real training."""

import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY

_CHAOS = REPOSITORY / "scripts" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [pytest.param(1, id="signed"), pytest.param(2, id="not signed")])
def test_a_little_chaos_breaks_no_promise(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, str(_CHAOS), "--minutes=0.2", f"--seed={seed}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
