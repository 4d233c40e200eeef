import subprocess
import sys

import pytest

from actor.guard.call_deadline import EXCEEDED, CallTimer, check_call_deadline
from shared.errors import ConfigurationError
from tests.support.paths import REPOSITORY


def test_one_call_is_measured_from_the_first_look_at_it() -> None:
    timer = CallTimer(1.0)
    seen = [timer.look(now_s, call=7, is_calling=True) for now_s in (10.0, 10.5, 11.0)]
    assert seen == [0.0, 0.5, 1.0]
    assert timer.returned_s == 0.0


@pytest.mark.parametrize(("call", "is_calling"), [(8, True), (8, False), (7, False)])
def test_the_next_call_and_the_time_between_two_calls_begin_at_zero(call: int, is_calling: bool) -> None:
    timer = CallTimer(1.0)
    timer.look(10.0, call=7, is_calling=True)
    assert timer.look(10.5, call=7, is_calling=True) == 0.5
    assert timer.look(11.0, call=call, is_calling=is_calling) == 0.0
    assert timer.returned_s == (0.5 if call == 8 else 0.0)


def test_time_in_which_the_whole_process_was_stopped_does_not_count() -> None:
    timer = CallTimer(1.0)
    seen = [timer.look(now_s, call=7, is_calling=True) for now_s in (10.0, 3610.0, 3610.5)]
    assert seen == [0.0, 1.0, 1.5]


@pytest.mark.parametrize("deadline_s", [-1.0, float("nan"), float("inf")])
def test_a_deadline_is_a_number_of_seconds(deadline_s: float) -> None:
    with pytest.raises(ConfigurationError, match="deadline"):
        check_call_deadline(deadline_s)


_PROGRAM = """
import sys, hashlib
from actor.guard.acting_record import ActingRecord
from actor.guard.call_deadline import CallDeadline
record = ActingRecord()
record.adopted(3, "ab" * 32, "torchscript")
deadline = CallDeadline(record, lambda: 1, float(sys.argv[1]))
record.calling[0] = 1
hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[2]))  # native code without the GIL
record.calling[0] = 0
deadline.close()
"""


def _call(deadline_s: float, rounds: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _PROGRAM, str(deadline_s), str(rounds)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_a_call_that_does_not_return_ends_the_process_with_one_line() -> None:
    done = _call(0.1, 2**31 - 1)
    assert done.returncode == EXCEEDED
    (line,) = done.stderr.splitlines()
    assert "acting call exceeded its deadline, process ends version=3 digest=abababababab engine=torchscript" in line


@pytest.mark.parametrize(("deadline_s", "rounds"), [(600.0, 1), (0.0, 1_000_000)])
def test_a_call_that_returns_in_time_or_has_no_deadline_ends_nothing(deadline_s: float, rounds: int) -> None:
    done = _call(deadline_s, rounds)
    assert (done.returncode, done.stderr) == (0, "")
