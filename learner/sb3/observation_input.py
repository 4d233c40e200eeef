"""Preprocessing inside the policy, as by ``VecNormalize``, ``VecTransposeImage`` and ``preprocess_obs``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from shared.errors import ConfigurationError
from shared.policy.spaces import ObservationLeaf, observation_leaves


@dataclass(frozen=True)
class Leaf:
    """One array of an observation, as the environment gives it (``outer``) and as the model reads it (``inner``)."""

    spec: ObservationLeaf
    key: str | None
    """The key in a Dict observation; None if the observation is one array."""
    outer: spaces.Space[Any]
    inner: spaces.Space[Any]


def pair_leaves(outer: spaces.Space[Any], inner: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """Pair the leaves of the environment's and the model's spaces. Raises ConfigurationError unless they match."""
    specs = observation_leaves(outer)
    if isinstance(outer, spaces.Dict) and isinstance(inner, spaces.Dict) and outer.keys() == inner.keys():
        return tuple(Leaf(spec, key, outer[key], inner[key]) for spec, key in zip(specs, outer, strict=True))
    if isinstance(outer, spaces.Dict) or isinstance(inner, spaces.Dict):
        raise ConfigurationError(f"the model was trained on observations of {inner}; this environment's are {outer}")
    return (Leaf(specs[0], None, outer, inner),)


class ObservationInput(nn.Module):
    """Turns flat observations in the environment's order into float32 inputs of the features extractor."""

    def __init__(self, leaves: Sequence[Leaf], vec_normalize: VecNormalize | None, normalize_images: bool) -> None:
        """Raises ConfigurationError for spaces that Stable-Baselines3 itself cannot read."""
        super().__init__()
        statistics = _statistics(vec_normalize)
        self.leaves = nn.ModuleList()
        self._normalized: list[tuple[str | None, Normalization]] = []
        for leaf in leaves:
            normalization = None
            if vec_normalize is not None and leaf.key in statistics:
                normalization = Normalization(statistics[leaf.key], vec_normalize)
                self._normalized.append((leaf.key, normalization))
            self.leaves.append(nn.Sequential(*_steps(leaf, normalization, normalize_images)))
        missing = statistics.keys() - {key for key, _ in self._normalized}
        if missing:
            raise ConfigurationError(f"VecNormalize normalises {missing}, which the model does not read")

    def forward(self, observation: list[Tensor]) -> list[Tensor]:
        read: list[Tensor] = []
        for i, leaf in enumerate(self.leaves):
            read.append(leaf(observation[i]))
        return read

    def read_statistics(self, vec_normalize: VecNormalize) -> None:
        """Copy the current statistics of ``vec_normalize``."""
        statistics = _statistics(vec_normalize)
        for key, normalization in self._normalized:
            normalization.read(statistics[key], vec_normalize.epsilon)


class Normalization(nn.Module):
    """The arithmetic of ``VecNormalize``: float64 inside, clipped, float32 out."""

    mean: Tensor
    std: Tensor

    def __init__(self, moments: RunningMeanStd, vec_normalize: VecNormalize) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = moments.mean.shape
        self._bound = float(vec_normalize.clip_obs)
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("std", torch.ones(self.shape, dtype=torch.float64))
        self.read(moments, vec_normalize.epsilon)

    def forward(self, observation: Tensor) -> Tensor:
        normalized = (observation.to(torch.float64) - self.mean) / self.std
        return normalized.clamp(-self._bound, self._bound).to(torch.float32)

    def read(self, moments: RunningMeanStd, epsilon: float) -> None:
        """Copy mean and variance in place."""
        self.mean.copy_(torch.as_tensor(moments.mean))
        self.std.copy_(torch.as_tensor(np.sqrt(moments.var + epsilon)))


class ChannelsFirst(nn.Module):
    """Permutes ``[B, H, W, C]`` to ``[B, C, H, W]``."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation.permute(0, 3, 1, 2)


class ScaledImage(nn.Module):
    """Scales 0 to 255 to the range 0 to 1."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation.to(torch.float32) / 255.0


class Numbers(nn.Module):
    """Converts to float32."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation.to(torch.float32)


class OneHot(nn.Module):
    """Encodes ``[B]`` or ``[B, parts]`` integers as ``[B, sum(cardinalities)]``."""

    part: Tensor
    values: Tensor

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        self._parts = len(cardinalities)
        # For each column of the result: the value of its part that it stands for.
        self.register_buffer("values", torch.cat([torch.arange(n) for n in cardinalities]))
        self.register_buffer(
            "part", torch.repeat_interleave(torch.arange(self._parts), torch.tensor(list(cardinalities)))
        )

    def forward(self, observation: Tensor) -> Tensor:
        columns = observation.to(torch.int64).reshape([-1, self._parts]).index_select(1, self.part)
        return (columns == self.values).to(torch.float32)


def _statistics(vec_normalize: VecNormalize | None) -> Mapping[str | None, RunningMeanStd]:
    if vec_normalize is None or not vec_normalize.norm_obs:
        return {}
    moments: Any = vec_normalize.obs_rms
    return moments if isinstance(moments, dict) else {None: moments}


def _steps(leaf: Leaf, normalization: Normalization | None, normalize_images: bool) -> list[nn.Module]:
    steps: list[nn.Module] = []
    shape = leaf.spec.shape
    if normalization is not None and normalization.shape == shape:
        steps.append(normalization)
        normalization = None
    if shape != leaf.inner.shape:
        if len(shape) != 3 or (shape[2], *shape[:2]) != leaf.inner.shape:
            raise ConfigurationError(
                f"{leaf.key or 'the observation'}: the model was trained on shape {leaf.inner.shape}, "
                f"this environment's is {shape}"
            )
        steps.append(ChannelsFirst())
    if normalization is not None:
        if normalization.shape != leaf.inner.shape:
            raise ConfigurationError(
                "make VecNormalize the last wrapper around the environments (after VecFrameStack). "
                f"{leaf.key or 'the observation'}: expected statistics of the shape that the model reads, "
                f"{leaf.inner.shape}; found {normalization.shape}"
            )
        steps.append(normalization)
    steps.append(_encoding(leaf, normalize_images))
    return steps


def _encoding(leaf: Leaf, normalize_images: bool) -> nn.Module:
    if leaf.spec.kind in ("discrete", "multi_discrete"):
        if any(leaf.spec.start) or len(leaf.spec.shape) > 1:
            raise ConfigurationError(
                f"use numbers that count from 0, in one dimension at most, as in Stable-Baselines3; found {leaf.outer}"
            )
        return OneHot(leaf.spec.cardinalities)
    return ScaledImage() if normalize_images and is_image_space(leaf.inner) else Numbers()
