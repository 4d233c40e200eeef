"""Who acts lets a load finish that is nearly over, and waits in vain for none that is not."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from actor.versions import load_barrier
from actor.versions.load_barrier import LoadBarrier, use_short_switch_interval


@pytest.fixture
def switch_interval() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before_s)


def test_waits_until_the_load_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_barrier, "PATIENCE_S", 60.0)
    way, begun, may_finish = LoadBarrier(), threading.Event(), threading.Event()
    order = []

    def load() -> None:
        with way.loading():
            begun.set()
            may_finish.wait()
            order.append("loaded")

    loader = threading.Thread(target=load)
    loader.start()
    begun.wait()
    assert way.is_loading
    threading.Timer(0.01, may_finish.set).start()
    way.wait_briefly()
    order.append("went on")
    loader.join()
    assert order == ["loaded", "went on"]
    assert not way.is_loading


def test_a_load_that_raises_is_over_too() -> None:
    way = LoadBarrier()
    with pytest.raises(OSError, match="gone"), way.loading():
        raise OSError("gone")
    assert not way.is_loading


def test_after_one_in_vain_there_is_no_other_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    way = LoadBarrier()
    with way.loading():
        way.wait_briefly()  # returns, though nothing is over
        monkeypatch.setattr(load_barrier, "PATIENCE_S", 60.0)
        way.wait_briefly()  # as does this: with such patience it would not, if it waited
    monkeypatch.setattr(load_barrier, "PATIENCE_S", 1e-3)
    monkeypatch.setattr(time, "monotonic", lambda: float("inf"))
    with way.loading():
        way.wait_briefly()
    assert way._in_vain_s == float("inf")  # it was waited for once more


def test_turns_become_short_and_stay_shorter(switch_interval: None) -> None:
    sys.setswitchinterval(5e-3)
    use_short_switch_interval()
    assert sys.getswitchinterval() == pytest.approx(1e-4)
    sys.setswitchinterval(1e-5)
    use_short_switch_interval()
    assert sys.getswitchinterval() == pytest.approx(1e-5)
