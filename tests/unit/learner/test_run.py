"""``python -m learner.run``, before anything is trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env=CartPol-v1"], "did you mean CartPole-v1"),
        (["--seed=99999999999999999999999999"], "--seed must be at least 0 and below 2**63"),
        (["--entropy-coefficient=nan"], "entropy_coefficient must be at least 0 and finite; found nan"),
    ],
)
def test_a_mistake_is_one_line_and_makes_no_run(flags: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "learner.run", f"--run-dir={tmp_path / 'run'}", *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m learner.run: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
