import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from actor.session.process_state import StopSignal, short_switch_interval
from tests.support.paths import REPOSITORY
from tests.support.signals import deliver


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


_PROGRAM = """
import hashlib, signal, sys, time
from actor.session.process_state import StopSignal
stopped = []
with StopSignal(ignore_interrupt="ignore" in sys.argv) as stop:
    if "wait" in sys.argv:
        stop.call_instead(lambda: stopped.append(True))
    print("ready", flush=True)
    if "hang" in sys.argv:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # native code without the GIL
    while not stopped:
        time.sleep(0.01)
    print("ended in order", flush=True)
sys.exit(stop.exit_code)
"""


def _signalled(
    how: str, *numbers: signal.Signals, send: Callable[["subprocess.Popen[str]", signal.Signals], None] = deliver
) -> tuple[int, str]:
    """Return the exit code and the output of a program that gets signals when it is ready."""
    command = [sys.executable, "-c", _PROGRAM, *how.split()]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            send(process, number)
        return process.wait(), process.stdout.read()


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGINT, signal.SIGTERM), 143),
        ((signal.SIGTERM, signal.SIGINT), 130),
        ((signal.SIGINT, signal.SIGTERM, signal.SIGINT), 143),
    ],
)
def test_the_second_signal_ends_a_process_that_hangs_in_native_code(
    numbers: tuple[signal.Signals, ...], code: int
) -> None:
    assert _signalled("hang wait", *numbers) == (code, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_it_in_order(number: signal.Signals, code: int) -> None:
    assert _signalled("wait", number) == (code, "ended in order\n")


def test_a_signal_that_comes_twice_at_once_lets_it_end_in_order() -> None:
    ended, said = _signalled("wait", signal.SIGTERM, signal.SIGINT, send=subprocess.Popen.send_signal)
    assert ended in (130, 143)  # the kernel delivers the lower number first
    assert said == "ended in order\n"


def test_an_ignored_interrupt_is_not_a_first_signal() -> None:
    assert _signalled("ignore wait", signal.SIGINT, signal.SIGINT, signal.SIGTERM) == (143, "ended in order\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_before_it_acts_the_first_signal_raises(number: signal.Signals, code: int) -> None:
    ended, _ = _signalled("", number)
    assert ended == code


def test_everything_is_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1
