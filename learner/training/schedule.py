"""How often something happens beside learning: after so many updates or so many seconds, whichever comes first."""


class Schedule:
    """Decides when the next time is due; whoever asks does what is due, and says that it has happened.

    ``every_s`` is None where only updates may decide. Nothing is due before there was another update.
    """

    def __init__(self, every_updates: int, every_s: float | None) -> None:
        self._every_updates = every_updates
        self._every_s = every_s
        self._last_update = 0
        self._last_s: float | None = None

    def happened(self, update: int, now_s: float) -> None:
        """It happened after ``update`` updates, at ``now_s`` of a clock that never goes back."""
        self._last_update, self._last_s = update, now_s

    def is_due(self, update: int, now_s: float) -> bool:
        """Whether it is time again. Seconds count from when it last happened."""
        if self.is_current(update):
            return False
        if update - self._last_update >= self._every_updates:
            return True
        return self._every_s is not None and self._last_s is not None and now_s - self._last_s >= self._every_s

    def is_current(self, update: int) -> bool:
        """Whether there was no other update since it last happened."""
        return self._last_s is not None and update == self._last_update
