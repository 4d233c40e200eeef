import sys

import pytest

from actor.session.process_state import short_switch_interval


@pytest.mark.parametrize(("before_s", "inside_s"), [(5e-3, 1e-4), (1e-5, 1e-5)])
def test_the_interval_is_short_inside_of_the_block_and_restored_after_it(before_s: float, inside_s: float) -> None:
    default_s = sys.getswitchinterval()
    sys.setswitchinterval(before_s)
    try:
        with short_switch_interval():
            assert sys.getswitchinterval() == pytest.approx(inside_s)
        assert sys.getswitchinterval() == pytest.approx(before_s)
    finally:
        sys.setswitchinterval(default_s)
