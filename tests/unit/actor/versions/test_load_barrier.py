"""The acting thread waits for a short load and not, again and again, for a long one."""

import threading
from types import SimpleNamespace

import pytest

from actor.versions import load_barrier
from actor.versions.load_barrier import PATIENCE_S, LoadBarrier


def test_waits_until_the_load_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_barrier, "PATIENCE_S", 60.0)
    barrier, begun, may_finish = LoadBarrier(), threading.Event(), threading.Event()
    assert not barrier.is_loading
    order = []

    def load() -> None:
        with barrier.loading():
            begun.set()
            may_finish.wait()
            order.append("loaded")

    loader = threading.Thread(target=load)
    loader.start()
    begun.wait()
    assert barrier.is_loading
    threading.Timer(0.01, may_finish.set).start()
    barrier.wait_briefly()
    order.append("went on")
    loader.join()
    assert order == ["loaded", "went on"]
    assert not barrier.is_loading


def test_a_load_that_raises_is_over_too() -> None:
    barrier = LoadBarrier()
    with pytest.raises(OSError, match="gone"), barrier.loading():
        raise OSError("gone")
    assert not barrier.is_loading


def test_a_wait_in_vain_is_not_repeated_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard is the only reason not to wait: a second wait would be seen by its timeout."""
    waits: list[float] = []
    now_s = 100.0
    monkeypatch.setattr(load_barrier, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout_s: waits.append(timeout_s))
    barrier = LoadBarrier()
    with barrier.loading():
        for _ in range(3):
            barrier.wait_briefly()
        assert waits == [PATIENCE_S], "the second and the third call return at once"
        now_s += 1.0
        barrier.wait_briefly()
        barrier.wait_briefly()
    assert waits == [PATIENCE_S] * 2


def test_a_wait_that_was_not_in_vain_may_be_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout_s: waits.append(timeout_s) or True)
    barrier = LoadBarrier()
    for _ in range(2):
        with barrier.loading():
            barrier.wait_briefly()
    assert waits == [PATIENCE_S] * 2
