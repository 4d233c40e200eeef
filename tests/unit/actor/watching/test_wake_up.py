"""An event that another process can set."""

import os
import subprocess
import sys
import time

import pytest

from actor.watching.wake_up import WakeUp, wake
from tests.support.waiting import PATIENCE_S, Running


def test_it_is_set_until_it_is_cleared() -> None:
    event = WakeUp()
    assert not event.wait(0.0)
    event.set()
    assert event.wait(PATIENCE_S)
    assert event.wait(PATIENCE_S)
    event.clear()
    assert not event.wait(0.0)
    event.clear()
    assert not event.wait(-1.0)


def test_it_may_be_set_any_number_of_times_though_nobody_waits() -> None:
    event = WakeUp()
    for _ in range(200_000):  # more than a pipe holds
        event.set()
    event.clear()
    assert not event.wait(0.0)


def test_whoever_waits_goes_on_at_once() -> None:
    event = WakeUp()
    waiting = Running(lambda: (event.wait(PATIENCE_S), time.monotonic()))
    began_s = time.monotonic()
    event.set()
    was_set, woken_s = waiting.join()
    assert was_set
    assert woken_s - began_s < PATIENCE_S / 2


def test_another_process_sets_it() -> None:
    event = WakeUp()
    program = f"from actor.watching.wake_up import wake; wake({event.descriptor})"
    subprocess.run([sys.executable, "-c", program], pass_fds=(event.descriptor,), check=True)
    assert event.wait(0.0)


def test_its_descriptors_go_with_it() -> None:
    event = WakeUp()
    descriptor = event.descriptor
    del event
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_setting_never_waits() -> None:
    event = WakeUp()
    for _ in range(200_000):
        wake(event.descriptor)


def test_one_that_was_never_made_goes_quietly() -> None:
    """A signal may end the program between any two of its lines."""
    WakeUp.__new__(WakeUp).__del__()
