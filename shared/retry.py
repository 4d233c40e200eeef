"""Delay before a failed operation is tried again."""

from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random


@dataclass(frozen=True)
class RetrySchedule:
    """Exponential backoff with jitter, in seconds: ``first_delay_s``, twice that, ... up to ``largest_delay_s``.

    The jitter, at most ``first_delay_s``, spreads actors that failed together.
    """

    first_delay_s: float = 0.05
    largest_delay_s: float = 5.0

    def delay_s(self, attempts: int) -> float:
        """Return the seconds to wait after ``attempts`` (>= 1) failures."""
        wait = wait_exponential(self.first_delay_s, self.largest_delay_s) + wait_random(0, self.first_delay_s)
        # tenacity would sleep on the caller's thread, which has other work until the time has come.
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempts
        return min(wait(state), self.largest_delay_s)
