"""How long to wait before trying something again that may work next time."""

from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random


@dataclass(frozen=True)
class RetrySchedule:
    """Exponential backoff with jitter, bounded: about ``first_delay_s``, twice that, … and never more than
    ``largest_delay_s``.

    Jitter adds at most ``first_delay_s``, so that many actors that failed together do not come back together.
    """

    first_delay_s: float = 0.05
    largest_delay_s: float = 5.0

    def delay_s(self, attempts: int) -> float:
        """Seconds to wait after ``attempts`` (>= 1) failed ones."""
        wait = wait_exponential(self.first_delay_s, self.largest_delay_s) + wait_random(0, self.first_delay_s)
        # tenacity would sleep on the caller's thread; the callers here go on with other work until the time has come.
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempts
        return min(wait(state), self.largest_delay_s)
