"""Comparison of an imported policy with the actions that the library itself chooses."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from learner.export.spaces_policy import SpacesPolicy
from shared.errors import ExportError
from shared.policy.probe import make_inputs, run_policy

ROWS = 16
_ATOL = _RTOL = 1e-5

OwnActions = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Function from the policy's inputs, without noise, to the library's deterministic actions ``[B, ...]``."""


def quiet_inputs(policy: SpacesPolicy, rows: int = ROWS) -> list[np.ndarray]:
    """Return plausible inputs with zero noise and zero state."""
    inputs = make_inputs(policy.signature, rows, seed=0)
    for i, spec in enumerate(policy.signature.inputs):
        if spec.role in ("noise", "state"):
            inputs[i] = np.zeros_like(inputs[i])
    return inputs


def check_actions(policy: SpacesPolicy, own_actions: OwnActions, library: str) -> None:
    """Raise ExportError unless both choose the same actions for 16 observations, without noise.

    Actions of the library beyond the bounds of the space are compared with their clipped values.
    """
    inputs = quiet_inputs(policy)
    is_box = policy.signature.action.kind == "box"
    position = (policy.signature.output_position("env_action") or 0) if is_box else 0
    was_training = policy.training
    found = run_policy(policy.eval(), policy.signature, inputs)[position]
    policy.train(was_training)
    expected = np.asarray(own_actions(inputs)).reshape(found.shape)
    if is_box:
        expected = policy.distribution.env_action(torch.from_numpy(expected)).numpy()
    differs = ~np.isclose(expected, found, _RTOL, _ATOL).reshape(ROWS, -1).all(1)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise ExportError(
            "write an nn.Module that returns logits, mean or action, and publish that with publish_policy: "
            f"the imported policy acts differently. {library} chooses {expected[row]}, the module {found[row]}"
        )
