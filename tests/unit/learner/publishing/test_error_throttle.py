"""Repeated errors are logged at the first failure, at powers of two, and at the recovery."""

from learner.publishing.error_throttle import ErrorThrottle
from tests.support.captured_logs import CapturedLogs


def test_failure_and_recovery_are_logged_with_the_callers_name(captured_logs: CapturedLogs) -> None:
    errors = ErrorThrottle("publishing")
    errors.worked()
    assert captured_logs.lines == []
    errors.failed(OSError("disk full"), "training continues")
    errors.worked()
    errors.worked()
    here = f"{__name__}:test_failure_and_recovery_are_logged_with_the_callers_name"
    failure, recovery = captured_logs.lines
    assert failure == f"ERROR | {here} - publishing fails: OSError: disk full; training continues"
    assert recovery.startswith(f"WARNING | {here} - publishing works again failures=1 outage_s=0.")


def test_failures_in_a_row_are_logged_at_powers_of_two(captured_logs: CapturedLogs) -> None:
    errors = ErrorThrottle("publishing")
    for _ in range(1000):
        errors.failed(OSError("disk full"), "training continues")
    assert len(captured_logs.lines) == 10  # 1, 2, 4, … 512
    assert "fails failures=512: " in captured_logs.lines[-1]
    errors.worked()
    errors.failed(OSError("gone"), "training continues")
    assert "fails: OSError: gone" in captured_logs.lines[-1]
