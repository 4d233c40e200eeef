"""Adoption after adoption, in a process that does nothing else: its memory stays as it was after the first hundred."""

import pytest

from scripts.benchmarks.memory import measure_memory


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_adoptions_hold_no_memory() -> None:
    growth, _ = measure_memory(10_000)
    assert growth.reached, f"{growth.value:.1f} MB more; at most {growth.max:.1f} MB on the way"
