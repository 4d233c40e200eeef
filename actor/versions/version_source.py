"""A source of versions that are verified outside of this process, beside the loader's own loads."""

from collections.abc import Sequence

from actor.watching.wake_up import WakeUp


class VersionSource:
    """Offers verified versions. This base class offers none: the loader loads every version.

    ``has_news`` and ``take`` are called on the acting thread, the rest by the loader.
    """

    @property
    def is_active(self) -> bool:
        """True while it watches the store in the loader's place. Any thread may ask."""
        return False

    @property
    def has_news(self) -> bool:
        """True while it offers a version that was not taken yet. Costs next to nothing."""
        return False

    def take(self) -> bool:
        """Give the offered version to the policy manager. Return True if the loader has to load it instead."""
        return False

    def keep(self, wake: WakeUp, news: WakeUp) -> bool:  # noqa: ARG002
        """Start it once it pays off, end it once it does not, and return ``is_active``.

        It sets ``wake`` when it is ready or leaves a version to the loader, ``news`` when it offers a version.
        """
        return False

    def leaves_to_loader(self, version: int) -> bool:  # noqa: ARG002
        """Return True if the loader has to load ``version``."""
        return True

    def loaded(self, load_s: float) -> bool:  # noqa: ARG002
        """Take note that a load took ``load_s`` from acting. Return True if ``keep`` is due."""
        return False

    def announced(self) -> Sequence[int]:
        """Return the versions that it has seen, which the loader need not look for."""
        return ()

    def close(self) -> None:
        """End it. Idempotent."""
