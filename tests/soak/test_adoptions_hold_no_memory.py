"""The memory of a process that adopts many versions does not grow after the first hundred adoptions."""

import pytest
from rich.console import Console

from scripts.benchmarks.reload.reload import measure_memory

ADOPTIONS = 10_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_adoptions_hold_no_memory() -> None:
    growth, _ = measure_memory(ADOPTIONS, Console(quiet=True), budget_s=3000)
    assert growth.name == f"memory growth in {ADOPTIONS:,} adoptions", "not enough time for all adoptions"
    assert growth.reached, f"grew by {growth.value:.1f} MB, at most {growth.max:.1f} MB"
