"""The line of the log that says what acts: at once, but no more than one a second where versions come faster.

A line costs an actor in a small environment as much as all the rest of an adoption, and nobody reads ten a second.
"""

import time

from loguru import logger

from actor.loading.loaded_policy import LoadedPolicy

_APART_S = 1.0
_DEPTH = 3  # what is logged as the place is who called the agent's reset or adopt: the caller of its caller here


class AdoptionLog:
    """Belongs to the acting thread. What was left unsaid is said with the next line, which is soon."""

    def __init__(self, name: str) -> None:
        """``name``: who acts."""
        self._name = name
        self._said_at_s = float("-inf")
        self.unsaid = 0
        """How often what acts has changed since it was said."""

    def changed(self, policy: LoadedPolicy) -> None:
        """``policy`` acts from now on."""
        self.unsaid += 1
        if time.monotonic() - self._said_at_s >= _APART_S:
            self._say(policy)

    def catch_up(self, policy: LoadedPolicy) -> None:
        """Say that ``policy`` acts, if that was left unsaid a while ago."""
        if self.unsaid and time.monotonic() - self._said_at_s >= _APART_S:
            self._say(policy)

    def end(self, policy: LoadedPolicy | None) -> None:
        """Leave nothing unsaid."""
        if self.unsaid and policy is not None:
            self._say(policy)

    def _say(self, policy: LoadedPolicy) -> None:
        line = "{} acts with version {} ({}, {})"
        if self.unsaid > 1:
            line += f", the last of {self.unsaid} changes since the line before"
        logger.opt(depth=_DEPTH).info(line, self._name, policy.version, policy.engine_name, policy.digest[:12])
        self._said_at_s, self.unsaid = time.monotonic(), 0
