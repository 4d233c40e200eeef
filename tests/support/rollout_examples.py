"""Layouts and rollouts for tests."""

import msgspec
import numpy as np
from gymnasium import spaces

from shared.policy.signature import acting_signature
from shared.policy.spaces import action_spec, observation_leaves
from shared.rollouts.rollout import EpisodeEnds, Rollout, RolloutHeader, RolloutLayout

RUN_ID = "run-1"


def plain_layout(length: int = 4) -> RolloutLayout:
    """Return a layout of four floats and two actions."""
    leaves = observation_leaves(spaces.Box(-1, 1, (4,), np.float32))
    return RolloutLayout(acting_signature(leaves, action_spec(spaces.Discrete(2))), length)


def rich_layout(length: int = 5) -> RolloutLayout:
    """Return a layout with an image, a discrete leaf, recurrent state, action masks and two choices."""
    observation = spaces.Dict(
        {"camera": spaces.Box(0, 255, (3, 40, 40), np.uint8), "gear": spaces.Tuple([spaces.Discrete(3, start=2)])}
    )
    signature = acting_signature(
        observation_leaves(observation),
        action_spec(spaces.MultiDiscrete([2, 3])),
        state=[(("lstm", "h"), (8,)), (("lstm", "c"), (8,))],
        masked=True,
    )
    return RolloutLayout(signature, length)


def header(actor_id: str = "actor-0", version: int = 0, run_id: str = RUN_ID) -> RolloutHeader:
    """Return a header; the sender sets its number."""
    return RolloutHeader(run_id, actor_id, 0, version, "ab" * 32, 7, 100, 1e9, EpisodeEnds([20.0], [20], [version]))


def example_rollout(
    layout: RolloutLayout, batch_size: int = 2, *, version: int = 0, seed: int = 0, finals: int = 0, **names: str
) -> Rollout:
    """Return a valid rollout of random values; ``names`` are arguments of ``header``."""
    rng = np.random.default_rng(seed)
    arrays = [_random(rng, spec.shape, spec.dtype) for spec in layout.arrays(batch_size, finals)]
    rollout = layout.assemble(header(version=version, **names), arrays)
    for i, leaf in enumerate(layout.signature.observation):
        if leaf.cardinalities:
            start, end = leaf.start[0], leaf.start[0] + leaf.cardinalities[0]
            rollout.observation[i][:] = rng.integers(start, end, rollout.observation[i].shape)
            rollout.final_observation[i][:] = start
    cardinalities = layout.signature.action.cardinalities
    rollout.behaviour_log_prob[:] = -np.abs(rollout.behaviour_log_prob)
    rollout.action[:] = rng.integers(0, min(cardinalities, default=2), rollout.action.shape)
    rollout.final_index[:] = [(i % layout.length, i // layout.length) for i in range(finals)] or rollout.final_index
    return rollout


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def assert_same(found: Rollout, sent: Rollout) -> None:
    """Compare every array, and every field of the header that senders do not set."""
    for a, b in zip(found.arrays(), sent.arrays(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    stamped = msgspec.structs.replace(sent.header, sequence=found.header.sequence, session_id=found.header.session_id)
    assert found.header == stamped
