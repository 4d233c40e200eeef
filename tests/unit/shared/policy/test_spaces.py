"""Spaces as data: flattening is lossless at any depth, for one environment and for a batch."""

from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError, SignatureMismatch
from shared.policy.spaces import ActionSpec, ObservationLeaf, Path, action_spec, flatten_observation, observation_leaves

_shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
_leaf_spaces = st.one_of(
    st.builds(lambda s, d: spaces.Box(-1, 1, s, d), _shapes, st.sampled_from([np.float32, np.float64])),
    st.builds(lambda s, d: spaces.Box(0, 100, s, d), _shapes, st.sampled_from([np.uint8, np.int16, np.int64])),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-5, 5)),
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(spaces.MultiDiscrete),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(spaces.MultiBinary),
)
_keys = st.text("abcd_", min_size=1, max_size=3)
nested_spaces = st.recursive(
    _leaf_spaces,
    lambda children: st.one_of(
        st.lists(children, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(_keys, children, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=8,
)


def rebuild(leaves: tuple[ObservationLeaf, ...], arrays: list[np.ndarray]) -> Any:
    """Return nested dicts of arrays by path, with tuple positions as keys."""
    if leaves[0].path == ():
        return arrays[0]
    tree: dict[Any, Any] = {}
    for leaf, array in zip(leaves, arrays, strict=True):
        node = tree
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        node[leaf.path[-1]] = array
    return tree


def assert_same_structure(found: Any, observation: Any) -> None:
    if isinstance(observation, dict | tuple):
        items = observation.items() if isinstance(observation, dict) else enumerate(observation)
        expected = dict(items)
        assert list(found) == list(expected)
        for key, child in expected.items():
            assert_same_structure(found[key], child)
    else:
        np.testing.assert_array_equal(found, np.asarray(observation).astype(found.dtype))


@given(nested_spaces, st.integers(0, 1000))
def test_an_observation_is_rebuilt_from_its_leaves(space: spaces.Space[Any], seed: int) -> None:
    space.seed(seed)
    observation = space.sample()
    leaves = observation_leaves(space)
    arrays = flatten_observation(observation, leaves)
    assert [array.shape for array in arrays] == [leaf.shape for leaf in leaves]
    assert [str(array.dtype) for array in arrays] == [leaf.dtype for leaf in leaves]
    assert_same_structure(rebuild(leaves, arrays), observation)


@given(nested_spaces, st.integers(1, 3))
def test_a_batch_has_the_same_paths(space: spaces.Space[Any], batch_size: int) -> None:
    leaves = observation_leaves(space)
    arrays = flatten_observation(batch_space(space, batch_size).sample(), leaves)
    assert [array.shape for array in arrays] == [(batch_size, *leaf.shape) for leaf in leaves]


@given(nested_spaces)
def test_leaves_stand_in_gymnasiums_order(space: spaces.Space[Any]) -> None:
    numeric = spaces.Dict({"one": space})
    observation = numeric.sample()
    flat = spaces.flatten(numeric, observation)
    leaves = observation_leaves(numeric)
    arrays = flatten_observation(observation, leaves)
    pieces = []
    for leaf, array in zip(leaves, arrays, strict=True):
        one_hot = zip(array.ravel(), leaf.cardinalities, leaf.start, strict=True) if leaf.cardinalities else ()
        pieces += [np.eye(n)[int(v) - start] for v, n, start in one_hot] if leaf.cardinalities else [array.ravel()]
    np.testing.assert_allclose(np.concatenate(pieces).astype(flat.dtype), flat, rtol=1e-6)


@given(nested_spaces)
def test_leaves_travel_as_json_and_messagepack(space: spaces.Space[Any]) -> None:
    leaves = observation_leaves(space)
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(leaves), type=tuple[ObservationLeaf, ...]) == leaves


def test_paths_name_keys_and_positions() -> None:
    space = spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2), spaces.Dict({"b": spaces.MultiBinary(1)})])})
    paths: list[Path] = [leaf.path for leaf in observation_leaves(space)]
    assert paths == [("a", 0), ("a", 1, "b")]


@pytest.mark.parametrize(
    ("space", "kind", "dtype"),
    [
        (spaces.Box(-1, 1, (3,), np.float64), "box", "float32"),
        (spaces.Box(-1, 1, (3,), np.float16), "box", "float32"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), "image", "uint8"),
        (spaces.Box(0, 255, (8,), np.uint8), "box", "uint8"),
        (spaces.Discrete(3), "discrete", "int64"),
        (spaces.MultiDiscrete([2, 2]), "multi_discrete", "int64"),
        (spaces.MultiBinary(3), "multi_binary", "int8"),
    ],
)
def test_a_leafs_kind_and_dtype(space: spaces.Space[Any], kind: str, dtype: str) -> None:
    (leaf,) = observation_leaves(space)
    assert (leaf.path, leaf.kind, leaf.dtype) == ((), kind, dtype)


def test_arrays_of_the_right_dtype_are_not_copied() -> None:
    observation = np.zeros(3, np.float32)
    (leaf,) = observation_leaves(spaces.Box(-1, 1, (3,), np.float32))
    assert flatten_observation(observation, [leaf])[0] is observation


@pytest.mark.parametrize("observation", [{}, {"a": 1}, {"a": [1]}, [0], None, 3])
def test_an_observation_of_another_space_is_a_mismatch(observation: Any) -> None:
    leaves = observation_leaves(spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])}))
    with pytest.raises(SignatureMismatch, match=r"a\.[01]"):
        flatten_observation(observation, leaves)


def test_unsupported_observation_space_is_named_with_its_path() -> None:
    space = spaces.Dict({"a": spaces.Tuple([spaces.Text(5)])})
    with pytest.raises(ConfigurationError, match=r"; a\.0 is a Text space"):
        observation_leaves(space)
    with pytest.raises(ConfigurationError, match=r"; the observation is a Text space"):
        observation_leaves(spaces.Text(5))


_HALF_OPEN = ActionSpec("box", "float32", (2,), low=(-1.0, None), high=(1.0, 2.0))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(3), ActionSpec("discrete", "int64", (), (3,), (0,))),
        (spaces.Discrete(3, start=1), ActionSpec("discrete", "int64", (), (3,), (1,))),
        (spaces.MultiDiscrete([2, 3]), ActionSpec("multi_discrete", "int64", (2,), (2, 3), (0, 0))),
        (spaces.MultiBinary(4), ActionSpec("multi_binary", "int8", (4,))),
        (spaces.Box(np.float32([-1, -np.inf]), np.float32([1, 2])), _HALF_OPEN),
    ],
)
def test_action_spaces_as_data(space: spaces.Space[Any], expected: ActionSpec) -> None:
    assert action_spec(space) == expected


@pytest.mark.parametrize(
    ("space", "noise", "mask", "sample", "env_action"),
    [
        (spaces.Discrete(3), (3,), (3,), "int64", False),
        (spaces.Discrete(3, start=1), (3,), (3,), "int64", True),
        (spaces.MultiDiscrete([2, 3]), (5,), (5,), "int64", False),
        (spaces.MultiBinary((2, 2)), (2, 2), None, "int64", False),
        (spaces.Box(-1, 1, (2, 3), np.float32), (2, 3), None, "float32", True),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), (2,), None, "float32", False),
        (spaces.Box(-np.inf, np.inf, (2,), np.float64), (2,), None, "float32", True),
    ],
)
def test_tensors_of_programs_for_an_action_space(
    space: spaces.Space[Any], noise: tuple[int, ...], mask: tuple[int, ...] | None, sample: str, env_action: bool
) -> None:
    spec = action_spec(space)
    assert (spec.noise_shape, spec.mask_shape, spec.sample_dtype) == (noise, mask, sample)
    assert spec.has_env_action == env_action


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Text(3),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.MultiDiscrete(np.array([[2, 2], [2, 2]])),
    ],
)
def test_unsupported_action_spaces_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected Discrete"):
        action_spec(space)
