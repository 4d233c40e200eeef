"""Adoption after adoption, in a process that does nothing else: its memory stays as it was after the first hundred."""

import pytest
from rich.console import Console

from scripts.benchmarks.reload.memory import measure_memory

ADOPTIONS = 10_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_adoptions_hold_no_memory() -> None:
    growth, _ = measure_memory(ADOPTIONS, Console(quiet=True), budget_s=3000)
    assert growth.name == f"memory growth in {ADOPTIONS:,} adoptions", "the time did not suffice for all of them"
    assert growth.reached, f"{growth.value:.1f} MB more; at most {growth.max:.1f} MB on the way"
