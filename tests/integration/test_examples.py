"""The example programs run unchanged."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

_EXAMPLES = REPOSITORY / "scripts" / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(path.name for path in _EXAMPLES.glob("[!_]*.py")))
def test_an_example_runs(program: str, tmp_path: Path) -> None:
    command = [sys.executable, str(_EXAMPLES / program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
