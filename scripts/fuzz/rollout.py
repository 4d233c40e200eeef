"""Rollouts as a receiver decodes them: two bytes of length, the frame of the header, the frame of the arrays."""

from shared.policy.signature import acting_signature
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.rollouts.rollout import RolloutLayout
from shared.rollouts.rollout_codec import decode_rollout, encode_rollout

LAYOUT = RolloutLayout(
    acting_signature(
        (ObservationLeaf(("a",), "box", "float32", (2,)), ObservationLeaf(("b",), "discrete", "int64", (), (3,), (1,))),
        ActionSpec("multi_discrete", "int64", (2,), (2, 3), (0, 0)),
        state=[(("h",), (2,))],
        masked=True,
    ),
    2,
)


def run(data: bytes) -> None:
    """Decode the two frames; encode an accepted rollout again."""
    length = int.from_bytes(data[:2], "big")
    rollout = decode_rollout([data[2 : 2 + length], data[2 + length :]], LAYOUT)
    again = decode_rollout([bytes(frame) for frame in encode_rollout(rollout)], LAYOUT)
    assert again.header == rollout.header
    LAYOUT.check(rollout)
