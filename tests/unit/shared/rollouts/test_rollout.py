"""Layouts check rollouts, and received bytes are a valid rollout or RolloutInvalid."""

import contextlib
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError, RolloutInvalid
from shared.policy.signature import acting_signature
from shared.policy.spaces import action_spec, observation_leaves
from shared.rollouts.rollout import EpisodeEnds, Rollout, RolloutLayout
from shared.rollouts.rollout_codec import decode_rollout, encode_rollout
from tests.support.rollout_examples import assert_same, example_rollout, header, plain_layout, rich_layout

_observations = st.recursive(
    st.sampled_from([spaces.Box(-1, 1, (3,), np.float64), spaces.Box(0, 255, (8, 8, 1), np.uint8)])
    | st.sampled_from([spaces.Discrete(4, start=-2), spaces.MultiDiscrete([3, 3]), spaces.MultiBinary((2, 2))]),
    lambda children: st.one_of(
        st.lists(children, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), children, min_size=1).map(spaces.Dict),
    ),
    max_leaves=5,
)
_actions = st.sampled_from(
    [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 5, 3]), spaces.MultiBinary(4)]
    + [spaces.Box(-2, 2, shape, np.float32) for shape in ((2,), ())]
)
_states = st.lists(st.integers(1, 4), max_size=2).map(lambda sizes: [((f"s{i}",), (n,)) for i, n in enumerate(sizes)])


@st.composite
def layouts(draw: st.DrawFn) -> RolloutLayout:
    signature = acting_signature(
        observation_leaves(draw(_observations)),
        action_spec(draw(_actions)),
        state=draw(_states),
        masked=draw(st.booleans()),
    )
    return RolloutLayout(signature, draw(st.integers(1, 6)))


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[RolloutLayout, Rollout]:
    layout = draw(layouts())
    batch_size = draw(st.integers(1, 5))
    finals = draw(st.integers(0, layout.length * batch_size))
    return layout, example_rollout(layout, batch_size, seed=draw(st.integers(0, 99)), finals=finals)


def received(rollout: Rollout) -> list[bytes]:
    return [bytes(frame) for frame in encode_rollout(rollout)]


@given(rollouts())
def test_decoding_reverses_encoding(example: tuple[RolloutLayout, Rollout]) -> None:
    layout, rollout = example
    layout.check(rollout)
    assert_same(decode_rollout(received(rollout), layout), rollout)


@given(layouts(), st.integers(1, 5))
def test_allocated_rollouts_fit_their_layout(layout: RolloutLayout, batch_size: int) -> None:
    rollout = layout.allocate(batch_size, header())
    assert (rollout.length, rollout.batch_size) == (layout.length, batch_size)
    assert rollout.env_steps == layout.length * batch_size
    for leaf, array in zip(layout.signature.observation, rollout.observation, strict=True):
        if leaf.cardinalities:
            array[:] = np.reshape(leaf.start, leaf.shape)
    layout.check(rollout)
    rollout.valid[0, 0] = False
    assert rollout.env_steps == layout.length * batch_size - 1


_EXAMPLES = [
    (layout, received(example_rollout(layout, finals=finals)))
    for layout in (plain_layout(), rich_layout(), rich_layout(length=32))
    for finals in (0, 2)
]


@given(st.sampled_from(_EXAMPLES), st.data())
def test_mutated_bytes_are_a_rollout_or_invalid(
    example: tuple[RolloutLayout, list[bytes]], data: st.DataObject
) -> None:
    layout, frames = example
    mutated = [bytearray(frame) for frame in frames]
    for _ in range(data.draw(st.integers(1, 6))):
        frame = mutated[data.draw(st.integers(0, min(1, len(mutated) - 1)))]
        if frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        frame = mutated[data.draw(st.integers(0, len(mutated) - 1))]
        del frame[data.draw(st.integers(0, len(frame))) :]
    if data.draw(st.booleans()):
        mutated = mutated[: data.draw(st.integers(0, len(mutated)))]
    with contextlib.suppress(RolloutInvalid):
        layout.check(decode_rollout(mutated, layout))


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_random_bytes_are_invalid(frames: list[bytes]) -> None:
    with pytest.raises(RolloutInvalid):
        decode_rollout(frames, plain_layout())


@pytest.mark.parametrize(("batch_size", "finals"), [(2**62, 0), (2**64 - 1, 0), (1, 2**63), (0, 0), (-1, 0), (1, -1)])
def test_a_header_cannot_claim_more_than_was_received(batch_size: int, finals: int) -> None:
    head = msgspec.msgpack.encode({"header": header(), "batch_size": batch_size, "finals": finals})
    with pytest.raises(RolloutInvalid):
        decode_rollout([head, b""], plain_layout())


def test_arrays_are_views_of_received_frames() -> None:
    layout = rich_layout(length=32)
    frames = received(example_rollout(layout))
    rollout = decode_rollout(frames, layout)
    assert np.shares_memory(rollout.observation[0], np.frombuffer(frames[2], np.uint8))
    assert all(array.flags.aligned for array in rollout.arrays())


@pytest.mark.parametrize("shift", range(8))
def test_arrays_are_aligned_at_any_address(shift: int) -> None:
    layout = plain_layout()
    sent = example_rollout(layout)
    frames = [memoryview(bytes(shift) + frame)[shift:] for frame in received(sent)]
    found = decode_rollout(frames, layout)
    assert_same(found, sent)
    assert all(array.flags.aligned for array in found.arrays())


def test_arrays_of_any_memory_order_can_be_encoded() -> None:
    layout = plain_layout()
    sent = example_rollout(layout, batch_size=3)
    sent.observation = tuple(np.asfortranarray(leaf) for leaf in sent.observation)
    sent.reward = np.repeat(sent.reward, 2, axis=1)[:, ::2]
    assert_same(decode_rollout(received(sent), layout), sent)


def _set(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Rollout], None]:
    def fault(rollout: Rollout) -> None:
        value = getattr(rollout, name)
        setattr(rollout, name, tuple(map(change, value)) if isinstance(value, tuple) else change(value))

    return fault


FAULTS: dict[str, tuple[Callable[[Rollout], None], str]] = {
    "too short": (_set("reward", lambda a: a[:-1]), "expected a reward"),
    "no environment": (_set("reward", lambda a: a[:, :0]), "expected a reward"),
    "one axis": (_set("reward", lambda a: a[:, 0]), "expected a reward"),
    "dtype": (_set("action", lambda a: a.astype(np.int32)), r"action: expected int64 \(5, 2, 2\), found int32"),
    "shape": (_set("terminated", lambda a: a[:, :1]), "terminated: expected bool"),
    "no mask": (lambda rollout: setattr(rollout, "action_mask", None), "arrays, found"),
    "not finite": (_set("behaviour_log_prob", lambda a: a * np.nan), "behaviour_log_prob holds values"),
    "infinite state": (_set("state", lambda a: a + np.inf), r"state\[0\] holds values"),
    "no flag": (_set("valid", lambda a: np.full(a.shape, 2, np.uint8).view(np.bool_)), "valid holds bytes"),
    "action above": (_set("action", lambda a: a + 3), "action holds choices"),
    "action below": (_set("action", lambda a: a - 1 - a), "action holds choices"),
    "observation": (lambda rollout: rollout.observation[1].fill(5), r"observation\[1\] holds choices"),
    "final observation": (lambda rollout: rollout.final_observation[1].fill(1), r"final_observation\[1\] holds"),
    "fewer finals": (_set("final_observation", lambda a: a[:-1]), r"final_observation\[0\]: expected"),
    "final outside": (lambda rollout: rollout.final_index.fill(5), "final_index points outside"),
    "final negative": (lambda rollout: rollout.final_index.fill(-1), "final_index points outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_layout_refuses_invalid_rollouts(fault: str) -> None:
    layout = rich_layout()
    rollout = example_rollout(layout, finals=2)
    layout.check(rollout)
    corrupt, message = FAULTS[fault]
    corrupt(rollout)
    with pytest.raises(RolloutInvalid, match=message):
        layout.check(rollout)


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": -1},
        {"version": -1},
        {"digest": ""},
        {"digest": "AB" * 32},
        {"began_unix_s": float("inf")},
        *({"episodes": EpisodeEnds([episode_return], [3], [0])} for episode_return in (float("nan"), 1e300)),
        *({"episodes": EpisodeEnds([1.0], [length], [0])} for length in (0, -3, 2**60)),
        {"episodes": EpisodeEnds([1.0], [3], [-1])},
        {"episodes": EpisodeEnds([1.0, 1.0], [3], [0, 0])},
        {"episodes": EpisodeEnds([1.0], [3], [])},
    ],
    ids=str,
)
def test_an_impossible_header_is_invalid(changes: dict[str, object]) -> None:
    layout = plain_layout()
    rollout = example_rollout(layout)
    rollout.header = msgspec.structs.replace(rollout.header, **changes)
    for check in (layout.check, lambda rollout: decode_rollout(received(rollout), layout)):
        with pytest.raises(RolloutInvalid, match=r"episode|SHA-256|finite time"):
            check(rollout)


def test_a_header_much_larger_than_its_steps_is_not_decoded() -> None:
    rollout = example_rollout(plain_layout())
    rollout.header = msgspec.structs.replace(
        rollout.header, episodes=EpisodeEnds(*([number] * 100_000 for number in (1.0, 3, 0)))
    )
    with pytest.raises(RolloutInvalid, match="a header of"):
        decode_rollout(received(rollout), plain_layout())


def test_a_rollout_too_large_for_receivers_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.rollouts.rollout_codec.MAX_ROLLOUT_BYTES", 100)
    with pytest.raises(ConfigurationError, match="use fewer environments"):
        encode_rollout(example_rollout(plain_layout(), batch_size=8))


def test_a_rollout_of_another_layout_is_invalid() -> None:
    for other in (plain_layout(length=5), rich_layout(length=4)):
        with pytest.raises(RolloutInvalid):
            decode_rollout(received(example_rollout(other)), plain_layout())
