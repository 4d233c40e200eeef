"""An event that another process can set."""

import os
import subprocess
import sys
import threading
import time

import pytest

from actor.watching.wake_up import WakeUp, wake
from tests.support.waiting import PATIENCE_S, Running


@pytest.mark.parametrize("times", [1, 200_000])
def test_it_is_set_until_it_is_cleared(times: int) -> None:
    """It may be set more often than a pipe has bytes."""
    event = WakeUp()
    assert not event.wait(0.0)
    for _ in range(times):
        event.set()
        wake(event.descriptor)
    assert event.wait(PATIENCE_S)
    assert event.wait(PATIENCE_S)
    event.clear()
    assert not event.wait(0.0)
    event.clear()
    assert not event.wait(-1.0)


def test_setting_it_ends_a_wait_in_progress() -> None:
    event, begun = WakeUp(), threading.Event()

    def wait() -> tuple[bool, float]:
        begun.set()
        return event.wait(PATIENCE_S), time.monotonic()

    waiting = Running(wait)
    assert begun.wait(PATIENCE_S)
    time.sleep(0.05)  # the thread blocks meanwhile
    set_s = time.monotonic()
    event.set()
    was_set, woken_s = waiting.join()
    assert was_set
    assert set_s <= woken_s < set_s + PATIENCE_S / 2


def test_another_process_sets_it() -> None:
    event = WakeUp()
    program = f"from actor.watching.wake_up import wake; wake({event.descriptor})"
    subprocess.run([sys.executable, "-c", program], pass_fds=(event.descriptor,), check=True)
    assert event.wait(0.0)


def test_it_closes_its_descriptors_at_the_end() -> None:
    event = WakeUp()
    descriptor = event.descriptor
    del event
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_object_without_descriptors_ends_without_an_error() -> None:
    """A signal may end the program before ``__init__`` runs."""
    WakeUp.__new__(WakeUp).__del__()
