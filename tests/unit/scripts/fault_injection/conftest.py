"""Fixtures of the tests of fault injection."""

from pathlib import Path

import pytest

from scripts.fault_injection.invariants import Invariants
from shared.run.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run").create()


@pytest.fixture
def invariants() -> Invariants:
    return Invariants()
