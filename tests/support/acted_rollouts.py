"""Rollouts that a policy really acted, in an environment of random observations, rewards and endings."""

import numpy as np
import torch

from learner.networks.acting_policy import ActingPolicy
from shared.policy.probe import make_inputs
from shared.rollouts.rollout import Rollout, RolloutLayout
from tests.support.rollout_examples import header


def act_rollout(
    policy: ActingPolicy, *, length: int = 6, batch_size: int = 3, seed: int = 0, next_step: bool = False
) -> Rollout:
    """Episodes end by chance; with ``next_step`` a reset step follows each end, else a final observation is kept."""
    signature = policy.signature
    rng = np.random.default_rng(seed)
    layout = RolloutLayout(signature, length)
    rollout = layout.allocate(batch_size, header())
    n, k = len(signature.observation), len(signature.state)
    state = [np.zeros((batch_size, *spec.shape), np.float32) for spec in signature.state]
    begins = np.ones(batch_size, bool)
    ended_before = np.zeros(batch_size, bool)
    finals: list[tuple[int, int, list[np.ndarray]]] = []
    for t in range(length + 1):
        inputs = make_inputs(signature, batch_size, seed * 1000 + t)
        state = [np.where(begins[:, None], np.float32(0), leaf) for leaf in state]
        inputs[n : n + k] = state
        rollout.begins_episode[t] = begins
        for recorded, leaf in zip(rollout.observation, inputs, strict=False):
            recorded[t] = leaf
        if t == length:
            break
        if t == 0:
            for recorded, leaf in zip(rollout.state, state, strict=True):
                recorded[:] = leaf
        if rollout.action_mask is not None:
            rollout.action_mask[t] = inputs[signature.input_position("action_mask")]
        with torch.no_grad():
            outputs = [output.numpy() for output in policy([torch.from_numpy(array.copy()) for array in inputs])]
        state = outputs[len(outputs) - k :]
        rollout.action[t] = outputs[0]
        rollout.behaviour_log_prob[t] = outputs[signature.output_position("log_prob")]
        rollout.valid[t] = ~ended_before
        rollout.reward[t] = rng.normal(size=batch_size) * rollout.valid[t]
        ending = rng.random(batch_size)
        rollout.terminated[t] = (ending < 0.15) & rollout.valid[t]
        rollout.truncated[t] = (ending > 0.85) & rollout.valid[t]
        ended = rollout.terminated[t] | rollout.truncated[t]
        if next_step:
            begins, ended_before = ended_before, ended
        else:
            begins = ended
            final = make_inputs(signature, batch_size, seed * 1000 + 500 + t)[:n]
            finals += [(t, int(b), [leaf[b] for leaf in final]) for b in np.flatnonzero(ended)]
    if finals:
        rollout.final_index = np.array([(t, b) for t, b, _ in finals], np.int32)
        rollout.final_observation = tuple(np.stack([leaves[i] for _, _, leaves in finals]) for i in range(n))
    layout.check(rollout)
    return rollout
