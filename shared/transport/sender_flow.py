"""When a sender may send, must greet, or believes the learner away: decided from what it heard, and when.

No socket and no clock in here: times are ``time.monotonic`` seconds that the caller passes in.
"""

import math

from shared.transport.messages import Credit, FromLearner, Refused, Stop, Welcome

_FIRST_HEARTBEAT_S = 0.5


class SenderFlow:
    """One sender's view of the window, the learner's signs of life, and what was lost.

    A sender is *welcome* once the learner has answered a Hello that told the present count. Being disconnected or
    dropping a rollout ends that, so the learner always knows the count before the next rollout arrives.
    """

    def __init__(self, window: int, learner_timeout_s: float, now_s: float) -> None:
        self.sent = 0
        self.lost = 0
        self.stop = False
        self.refusal: str | None = None
        self.wanted_version: int | None = None
        self._window = window
        self._timeout_s = learner_timeout_s
        self._knock_after_s = min(2 * _FIRST_HEARTBEAT_S, learner_timeout_s / 2)
        self._taken = 0
        self._welcome = False
        self._heard_at_s = now_s
        self._hello_at_s: float | None = None
        self._hello_sent: int | None = None

    @property
    def has_room(self) -> bool:
        """Whether the learner waits for another rollout."""
        return self._welcome and self.sent - self._taken < self._window

    def learner_alive(self, now_s: float) -> bool:
        """A new sender gives the learner the benefit of the doubt for one timeout."""
        return self.refusal is None and now_s - self._heard_at_s < self._timeout_s

    def silence_s(self, now_s: float) -> float:
        """Seconds since the learner was last heard."""
        return now_s - self._heard_at_s

    def hello_due(self, now_s: float) -> bool:
        """Whether to greet as soon as there is a connection."""
        return self._hello_due_at_s() <= now_s

    def wait_s(self, now_s: float) -> float:
        """How long nothing can change unless a message or a connection comes."""
        wake_at_s = self._heard_at_s + self._timeout_s
        due_at_s = self._hello_due_at_s()
        if due_at_s > now_s:  # a greeting that is due already waits for a connection, not for the clock
            wake_at_s = min(wake_at_s, due_at_s)
        return max(0.0, wake_at_s - now_s)

    def _hello_due_at_s(self) -> float:
        if self._hello_at_s is None:
            return -math.inf
        since_s = max(self._hello_at_s, self._heard_at_s) if self._welcome else self._hello_at_s
        return since_s + self._knock_after_s

    def greeted(self, now_s: float) -> None:
        """A Hello with the present count is on its way."""
        self._hello_at_s = now_s
        self._hello_sent = self.sent

    def disconnected(self) -> None:
        """Nothing can be sent: whoever is at the other end next must be greeted first."""
        self._welcome = False
        self._hello_at_s = None

    def count_sent(self) -> None:
        """The next number went out."""
        self.sent += 1

    def count_lost(self) -> None:
        """The next number was dropped; the learner must hear of it before the one after."""
        self.sent += 1
        self.lost += 1
        self._welcome = False

    def hear(self, message: FromLearner, now_s: float) -> None:
        """Take note of a message."""
        self._heard_at_s = now_s
        match message:
            case Welcome():
                self.refusal = None
                self._take(message.taken)
                self._knock_after_s = min(2 * message.heartbeat_s, self._timeout_s / 2)
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
            self._hello_at_s = None  # the learner is there but knows an old count: tell it at once

    def _take(self, taken: int) -> None:
        self._taken = max(self._taken, min(taken, self.sent))
