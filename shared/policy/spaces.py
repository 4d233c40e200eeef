"""Observation and action spaces as plain data, stored in manifests.

A nested observation becomes a flat tuple of leaves in Gymnasium's own order (Dict keys as the space orders them).
Batched observations of a vector environment have the same paths.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from gymnasium import spaces

from shared.errors import ConfigurationError, SignatureMismatch

Path = tuple[str | int, ...]
LeafKind = Literal["box", "image", "discrete", "multi_discrete", "multi_binary"]
ActionKind = Literal["discrete", "multi_discrete", "multi_binary", "box", "none"]


class ObservationLeaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of an observation, at ``path`` in the nested structure; ``shape`` excludes the batch dimension.

    ``dtype`` is that of the program's input: floats become float32, and ``uint8`` images are scaled inside the policy.
    ``cardinalities`` and ``start`` are empty except for discrete and multi-discrete leaves.
    """

    path: Path
    kind: LeafKind
    dtype: str
    shape: tuple[int, ...]
    cardinalities: tuple[int, ...] = ()
    start: tuple[int, ...] = ()


class ActionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An action space, or kind ``none``. ``low`` and ``high`` are flat, None where unbounded, empty but for boxes."""

    kind: ActionKind
    dtype: str
    shape: tuple[int, ...]
    cardinalities: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    @property
    def sample_dtype(self) -> str:
        """Dtype of the raw sample ``action`` that programs return and rollouts record."""
        return "float32" if self.kind == "box" else "int64"

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one row of noise: a number per logit, or per dimension of a box."""
        if self.kind in ("discrete", "multi_discrete"):
            return (sum(self.cardinalities),)
        return self.shape

    @property
    def mask_shape(self) -> tuple[int, ...] | None:
        """Shape of one row of an action mask, or None for a kind without masks."""
        return (sum(self.cardinalities),) if self.kind in ("discrete", "multi_discrete") else None

    @property
    def has_env_action(self) -> bool:
        """True when the action passed to the environment differs from the raw sample."""
        if self.kind == "box":
            return any(bound is not None for bound in (*self.low, *self.high)) or self.dtype != "float32"
        return any(self.start)


def observation_leaves(space: spaces.Space[Any]) -> tuple[ObservationLeaf, ...]:
    """Flatten an observation space. Raises ConfigurationError for an unsupported space."""
    return tuple(_leaves(space, ()))


def _leaves(space: spaces.Space[Any], path: Path) -> list[ObservationLeaf]:
    match space:
        case spaces.Dict():
            return [leaf for key, child in space.spaces.items() for leaf in _leaves(child, (*path, key))]
        case spaces.Tuple():
            return [leaf for i, child in enumerate(space.spaces) for leaf in _leaves(child, (*path, i))]
        case spaces.Box():
            return [_box_leaf(space, path)]
        case spaces.Discrete():
            return [ObservationLeaf(path, "discrete", "int64", (), (int(space.n),), (int(space.start),))]
        case spaces.MultiDiscrete():
            numbers = (tuple(each.ravel().tolist()) for each in (space.nvec, space.start))
            return [ObservationLeaf(path, "multi_discrete", "int64", space.nvec.shape, *numbers)]
        case spaces.MultiBinary():
            return [ObservationLeaf(path, "multi_binary", "int8", space.shape)]
    where = ".".join(map(str, path)) or "the observation"
    raise ConfigurationError(
        "wrap the environment (gymnasium.wrappers has transforms): expected Box, Discrete, MultiDiscrete, MultiBinary, "
        f"or a Dict or Tuple of them; {where} is a {type(space).__name__} space"
    )


def _box_leaf(space: spaces.Box, path: Path) -> ObservationLeaf:
    if np.issubdtype(space.dtype, np.floating):
        return ObservationLeaf(path, "box", "float32", space.shape)
    is_image = space.dtype == np.uint8 and len(space.shape) == 3
    return ObservationLeaf(path, "image" if is_image else "box", str(np.dtype(space.dtype)), space.shape)


def action_spec(space: spaces.Space[Any]) -> ActionSpec:
    """Return an action space as data. Raises ConfigurationError for an unsupported space."""
    match space:
        case spaces.Discrete():
            return ActionSpec("discrete", str(np.dtype(space.dtype)), (), (int(space.n),), (int(space.start),))
        case spaces.MultiDiscrete() if space.nvec.ndim == 1:
            numbers = (tuple(each.tolist()) for each in (space.nvec, space.start))
            return ActionSpec("multi_discrete", str(space.dtype), space.shape, *numbers)
        case spaces.MultiBinary():
            return ActionSpec("multi_binary", str(np.dtype(space.dtype)), space.shape)
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            return ActionSpec(
                "box", str(np.dtype(space.dtype)), space.shape, low=_bounds(space.low), high=_bounds(space.high)
            )
    raise ConfigurationError(
        "flatten a composite action space with gymnasium.spaces.flatten_space in a wrapper: expected Discrete, "
        f"MultiDiscrete (one-dimensional), MultiBinary or a floating-point Box, found {space}"
    )


def _bounds(bound: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(b) if np.isfinite(b) else None for b in bound.ravel())


def flatten_observation(observation: Any, leaves: Sequence[ObservationLeaf]) -> list[np.ndarray]:
    """Return a nested observation's arrays like ``leaves``, copied only to change dtype. Raises SignatureMismatch."""
    return [np.asarray(_at(observation, leaf.path), dtype=leaf.dtype) for leaf in leaves]


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        try:
            observation = observation[key]
        except (KeyError, IndexError, TypeError) as error:
            raise SignatureMismatch(
                "use a policy that was trained on this observation space: the observation has nothing at "
                f"{'.'.join(map(str, path))}; expected {key!r}, found {type(observation).__name__}"
            ) from error
    return observation
