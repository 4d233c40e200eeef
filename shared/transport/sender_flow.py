"""Decisions of a sender, without socket and clock: the caller passes times in ``time.monotonic`` seconds."""

import math

from shared.transport.messages import Credit, FromLearner, Refused, Stop, Welcome

_FIRST_HEARTBEAT_S = 0.5


class SenderFlow:
    """State of one sender: its window, the last message of the learner, and its counts.

    A sender is *welcome* after the learner has answered a Hello with the present count. A disconnection or a dropped
    rollout ends that, so that the learner knows the count before the next rollout arrives.
    """

    def __init__(self, window: int, learner_timeout_s: float, now_s: float) -> None:
        self.sent = 0
        self.lost = 0
        self.stop = False
        self.refusal: str | None = None
        self.wanted_version: int | None = None
        self._window = window
        self._timeout_s = learner_timeout_s
        self._hello_after_s = min(2 * _FIRST_HEARTBEAT_S, learner_timeout_s / 2)
        self._taken = 0
        self._welcome = False
        self._heard_at_s = now_s
        self._hello_at_s: float | None = None
        self._hello_sent: int | None = None

    @property
    def has_room(self) -> bool:
        """True when another rollout fits into the window."""
        return self._welcome and self.sent - self._taken < self._window

    def learner_alive(self, now_s: float) -> bool:
        """Return True within the timeout after the last message, or after construction."""
        return self.refusal is None and now_s - self._heard_at_s < self._timeout_s

    def silence_s(self, now_s: float) -> float:
        return now_s - self._heard_at_s

    def hello_due(self, now_s: float) -> bool:
        """Return True if a Hello has to be sent on the next connection."""
        return self._hello_due_at_s() <= now_s

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the state changes without a message or a connection."""
        wake_at_s = self._heard_at_s + self._timeout_s
        due_at_s = self._hello_due_at_s()
        if due_at_s > now_s:  # a Hello that is due waits for a connection, not for the clock
            wake_at_s = min(wake_at_s, due_at_s)
        return max(0.0, wake_at_s - now_s)

    def _hello_due_at_s(self) -> float:
        if self._hello_at_s is None:
            return -math.inf
        since_s = max(self._hello_at_s, self._heard_at_s) if self._welcome else self._hello_at_s
        return since_s + self._hello_after_s

    def greeted(self, now_s: float) -> None:
        """Record that a Hello with the present count was sent."""
        self._hello_at_s = now_s
        self._hello_sent = self.sent

    def disconnected(self) -> None:
        """Record that there is no connection: the next one begins with a Hello."""
        self._welcome = False
        self._hello_at_s = None

    def count_sent(self) -> None:
        self.sent += 1

    def count_lost(self) -> None:
        """Count a dropped rollout; the learner has to know the count before the next one."""
        self.sent += 1
        self.lost += 1
        self._welcome = False

    def process(self, message: FromLearner, now_s: float) -> None:
        self._heard_at_s = now_s
        match message:
            case Welcome():
                self.refusal = None
                self._take(message.taken)
                self._hello_after_s = min(2 * message.heartbeat_s, self._timeout_s / 2)
                self._welcome = self._welcome or message.sent == self.sent
            case Credit():
                self._take(message.taken)
                self.wanted_version = message.version
            case Refused():
                self.refusal = message.reason
                self._welcome = False
            case Stop():
                self.stop = True
        if not self._welcome and self.refusal is None and self._hello_sent != self.sent:
            self._hello_at_s = None  # the learner knows an old count: greet at once

    def _take(self, taken: int) -> None:
        self._taken = max(self._taken, min(taken, self.sent))
