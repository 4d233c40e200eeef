"""Somebody who greets the learner properly, and sends it rollouts that nobody may learn from."""

import secrets
import time
from collections.abc import Callable

import numpy as np

from scripts.fault_injection.invariants import Invariants
from shared.errors import HotswapError
from shared.rollouts.rollout import EpisodeEnds, Rollout, RolloutHeader, RolloutLayout
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.transport.zmq_sender import ZmqSender

_ENVS = 2
_PATIENCE_S = 0.3
_REJECTED_WITHIN_S = 10.0
_LOOK_AGAIN_S = 0.05


def _rollout(config: RunConfig, actor_id: str, *, run_id: str | None = None, longer_by: int = 0) -> Rollout:
    nothing_ended = EpisodeEnds([], [], [])
    header = RolloutHeader(run_id or config.run_id, actor_id, 0, 0, "0" * 64, 0, 0, time.time(), nothing_ended)
    return RolloutLayout(config.signature, config.rollout_length + longer_by).allocate(_ENVS, header)


def _not_finite(config: RunConfig, actor_id: str) -> Rollout:
    rollout = _rollout(config, actor_id)
    rollout.reward[0, 0] = np.nan
    return rollout


INVALID: dict[str, Callable[[RunConfig, str], Rollout]] = {
    "of a wrong shape": lambda config, actor_id: _rollout(config, actor_id, longer_by=1),
    "of another run": lambda config, actor_id: _rollout(config, actor_id, run_id="another"),
    "with a value that is not finite": _not_finite,
}
"""By what is wrong with them; each is whole and well-formed otherwise."""


def send_invalid(config: RunConfig, kind: str, patience_s: float = _PATIENCE_S) -> bool:
    """Send one of ``kind`` to the learner of ``config``. False where that did not take it in time."""
    actor_id = f"chaos-{secrets.token_hex(4)}"
    sender = ZmqSender(config.address, config.run_id, actor_id, learner_timeout_s=patience_s + 2.0)
    try:
        return sender.wait_for_room(patience_s) and sender.send(INVALID[kind](config, actor_id))
    finally:
        sender.close()


class InvalidRollouts:
    """Those that were sent in a chaos run: the learner's books may hold as many as invalid, and no more."""

    def __init__(self, run: RunDirectory, invariants: Invariants) -> None:
        self.sent = 0
        self._run = run
        self._invariants = invariants

    def send(self, kind: str, patience_s: float = _PATIENCE_S) -> bool:
        """Send one to the learner as it is now, whatever becomes of that. False where nobody took it."""
        try:
            config = self._run.run_config()
            sent = config is not None and send_invalid(config, kind, patience_s)
        except HotswapError:
            return False
        self.sent += sent
        return sent

    def must_be_rejected(self) -> None:
        """Send one of each kind to a learner that nobody disturbs: it has to count them as invalid."""
        before = self._invalid()
        sent = sum(self.send(kind, _REJECTED_WITHIN_S) for kind in INVALID)
        deadline_s = time.monotonic() + _REJECTED_WITHIN_S
        while self._invalid() < before + sent and time.monotonic() < deadline_s:
            time.sleep(_LOOK_AGAIN_S)
        self._invariants.hold(
            "invalid rollouts are rejected",
            sent == len(INVALID) and self._invalid() >= before + sent,
            f"{len(INVALID)} were there, {sent} were taken, {self._invalid() - before} were counted as invalid",
        )

    def may_be_invalid(self, count: int) -> None:
        """``count`` stands in the books at the end; some may be lost instead, with a learner that was killed."""
        self._invariants.hold(
            "no bad action", count <= self.sent, f"{count} rollouts were invalid, {self.sent} were sent to be"
        )

    def _invalid(self) -> int:
        progress = self._run.progress()
        return 0 if progress is None else progress.rollouts.invalid
