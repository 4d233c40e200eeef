"""How rollouts get from actors to the learner: one narrow interface, one conformance suite for all implementations.

Flow control is by credit: a sender may have ``window`` rollouts under way that the learner has not yet taken up. So a
slow learner slows actors, memory stays bounded, and what actors send stays fresh. A synchronous
receiver keeps the credit until ``resume_senders`` names the version to act with next.
While the learner's heartbeats do not arrive, a sender never blocks: what nobody took is counted as lost, and the actor
goes on acting.

Accounting: each sender numbers its rollouts from 0 as it sends them. It writes ``RolloutHeader.sequence`` and
``session_id`` (which tells this life of the actor from its others), whatever stood there. Every number ends in exactly
one of four places: learned, stale, invalid, lost. ``lost`` is counted from gaps in the numbers, from each sender's own
count of what it sent, and from the journal of a learner that was killed; never computed as the rest.
"""

from typing import Protocol

from shared.rollouts.rollout import Rollout
from shared.rollouts.rollout_accounts import RolloutAccounts


class RolloutSender(Protocol):
    """The actor's end."""

    @property
    def learner_alive(self) -> bool:
        """Whether the learner has been heard from within ``learner_timeout_s``; a new sender assumes so."""
        ...

    @property
    def stop_requested(self) -> bool:
        """Whether the learner has said that the training is over."""
        ...

    @property
    def wanted_version(self) -> int | None:
        """The version that the next rollout is best acted by, or a newer one; None where any will do."""
        ...

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until ``send`` would not block. True at once while the learner is away: then ``send`` counts and drops.

        False when ``timeout_s`` passed or a stop was requested meanwhile.
        """
        ...

    def send(self, rollout: Rollout) -> bool:
        """Number one rollout and hand it over; its buffers must not be written to again. False where it is lost.

        Blocks while the window is full and the learner alive. Raises TransportClosed after ``close``.
        """
        ...

    def close(self) -> None:
        """Say goodbye with the final count of what was sent, flushing for a bounded time. Idempotent."""
        ...


class RolloutReceiver(Protocol):
    """The learner's end. Invalid rollouts are counted and logged with their sender's name, never returned."""

    @property
    def accounts(self) -> RolloutAccounts:
        """The books over all senders so far; a rollout under way is ``sent`` but in none of the four places yet."""
        ...

    @property
    def actor_restarts(self) -> int:
        """How often a known ``actor_id`` came back as a new process."""
        ...

    @property
    def live_senders(self) -> int:
        """How many senders are connected and have not said goodbye."""
        ...

    @property
    def synchronous(self) -> bool:
        """True when a sender whose rollout was received waits for ``resume_senders``."""
        ...

    def receive(self, timeout_s: float) -> Rollout | None:
        """Return the next valid rollout, or None when ``timeout_s`` passed.

        Its sender then has room for another: at once, or with a synchronous receiver after ``resume_senders``.
        """
        ...

    def resume_senders(self, version: int | None) -> None:
        """Let waiting senders send again, rollouts acted by ``version`` or a newer one (None: by any version)."""
        ...

    def count_learned(self, rollout: Rollout) -> None:
        """The rollout went into an update."""
        ...

    def count_stale(self, rollout: Rollout) -> None:
        """The rollout was too old to learn from."""
        ...

    def count_invalid(self, rollout: Rollout, why: str) -> None:
        """The rollout cannot be what it says: it is logged with its sender's name."""
        ...

    def stop_actors(self, timeout_s: float) -> None:
        """Ask every sender to stop; collect final counts for at most ``timeout_s``; what is under way is lost."""
        ...

    def state(self) -> bytes:
        """The books as a checkpoint keeps them."""
        ...

    def restore(self, state: bytes) -> None:
        """Go on from a checkpoint's books: what was learned after it is lost once its sender is heard from again."""
        ...

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...
