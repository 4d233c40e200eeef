"""PPO (Schulman et al. 2017) with V-trace targets (Espeholt et al. 2018), for rollouts of new and older policies."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.distributions import mask_logits
from learner.ppo import losses
from learner.ppo.gradients.backprop import AdamState, FlatAdam, FlatParameters
from learner.ppo.learner_config import LearnerConfig
from learner.ppo.normalization import MomentsState, ReturnScale, RunningMoments, ScaleState
from learner.ppo.policy_training import (
    Batch,
    FeedForwardTraining,
    Minibatch,
    PolicyTraining,
    RecurrentTraining,
    Targets,
    join_rollouts,
)
from learner.ppo.vtrace import Bools, Floats, Steps, vtrace
from shared.errors import CheckpointError, UpdateNotFinite, one_line
from shared.policy.signature import PolicySignature
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.rollouts.rollout import Rollout

_LARGEST_LOG_RATIO = np.float32(20.0)


@dataclass(frozen=True)
class UpdateMetrics:
    """Measurements of one update; those up to ``grad_norm`` are of its last minibatch.

    ``entropy`` and ``approx_kl`` (from the policy that acted) are in nats. ``grad_norm`` and ``mean_rho``, the mean
    importance weight, are before clipping. ``explained_variance`` is that of the value targets by the values before the
    update. ``env_steps`` counts all valid steps so far; ``seconds`` is wall time.
    """

    policy_loss: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    approx_kl: float = 0.0
    clip_fraction: float = 0.0
    grad_norm: float = 0.0
    explained_variance: float = 0.0
    mean_rho: float = 1.0
    learning_rate: float = 0.0
    gradient_steps: int = 0
    env_steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Schedule:
    learning_rate: float
    clip: float
    entropy_coefficient: float


@dataclass(frozen=True)
class _Evaluation:
    minibatch: Minibatch
    terms: Tensor
    log_prob: Tensor
    value: Tensor


class LearnerState(TypedDict):
    policy: dict[str, Tensor]
    optimizer: AdamState
    moments: dict[int, MomentsState]
    return_scale: ScaleState | None
    generator: Tensor
    env_steps: int
    gradient_steps: int


class Learner:
    """Policy in training, with its optimizer, statistics and random generator.

    Learners with the same seed, spaces and configuration that get the same rollouts have the same weights, bit for bit;
    so has a learner restored from a ``state_dict``. ``masked``: observations come with a mask of allowed actions.
    """

    def __init__(
        self,
        observation: tuple[ObservationLeaf, ...],
        action: ActionSpec,
        config: LearnerConfig,
        *,
        masked: bool = False,
        seed: int = 0,
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._config = config
        self.policy = ActingPolicy(observation, action, config.network_config, masked, self._generator).eval()
        self._parameters = FlatParameters(self.policy)
        self._optimizer = FlatAdam(self._parameters)
        training = FeedForwardTraining if config.network == "mlp" else RecurrentTraining
        self._training: PolicyTraining = training(self.policy, self._parameters, torch_compile=config.compile)
        self._moments = {i: RunningMoments(encoder.size) for i, encoder in self.policy.encoder.normalized()}
        self._return_scale = ReturnScale() if config.normalize_rewards else None
        self.env_steps = 0
        self.gradient_steps = 0

    @property
    def signature(self) -> PolicySignature:
        return self.policy.signature

    @torch.no_grad()
    def update(self, rollouts: Sequence[Rollout], *, should_stop: Callable[[], bool] | None = None) -> UpdateMetrics:
        """Train on ``rollouts`` of equal lengths, any widths, that passed ``RolloutLayout.check``; return metrics.

        The update ends early when ``should_stop``, called before every gradient step, returns True.

        Raises:
            UpdateNotFinite: Loss, gradients or result are not finite. The learner is as before, except ``env_steps``.
        """
        began_s = time.perf_counter()
        batch = join_rollouts(rollouts)
        schedule = self._schedule()
        self.env_steps += int(np.count_nonzero(batch.valid))
        gradient_steps_before = self.gradient_steps
        undo = self._prepare_undo()
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # the checks below report it
                self._observe(batch)
                statistics = self._set_targets(batch)
            statistics |= self._descend(schedule, should_stop)
            self._check_result()
        except UpdateNotFinite:
            undo()
            raise
        return UpdateMetrics(
            learning_rate=schedule.learning_rate,
            gradient_steps=self.gradient_steps - gradient_steps_before,
            env_steps=self.env_steps,
            seconds=time.perf_counter() - began_s,
            **statistics,
        )

    def _schedule(self) -> _Schedule:
        config, left = self._config, 1.0
        if config.anneal_steps is not None:
            done = min(1.0, self.env_steps / config.anneal_steps)
            left = 1.0 - done * (1.0 - config.final_fraction)
        return _Schedule(config.learning_rate * left, config.clip * left, config.entropy_coefficient * left)

    def _observe(self, batch: Batch) -> None:
        for i, encoder in self.policy.encoder.normalized():
            moments = self._moments[i]
            moments.update(batch.observation[i][:-1][batch.valid].reshape(-1, encoder.size))
            encoder.mean.copy_(torch.from_numpy(moments.mean))
            encoder.inverse_std.copy_(torch.from_numpy(moments.inverse_std))

    def _set_targets(self, batch: Batch) -> dict[str, float]:
        config = self._config
        estimate = self._training.estimate(batch)
        unit = np.float32(self._return_scale.scale if self._return_scale else 1.0)
        value = estimate.value * unit
        next_value = value[1:].copy()
        next_value[tuple(batch.final_index.T)] = estimate.final_value * unit
        # No ratio of probabilities overflows: those above e^20 count as e^20, here and in V-trace.
        behaviour_log_prob = np.maximum(batch.behaviour_log_prob, estimate.log_prob - _LARGEST_LOG_RATIO)
        log_rho = estimate.log_prob - behaviour_log_prob
        steps = Steps(log_rho, batch.reward, value[:-1], next_value, batch.terminated, batch.truncated, batch.valid)
        trace = vtrace(steps, gamma=config.gamma, trace_lambda=config.trace_lambda, max_rho=config.max_rho)
        target, old_value, advantage = trace.target, value[:-1], trace.advantage
        valid_target = target[batch.valid]
        error = valid_target - old_value[batch.valid]
        if self._return_scale:
            unit = self._change_unit(self._return_scale, valid_target)
        advantage = _normalize(advantage, batch.valid) if config.normalize_advantages else advantage / unit
        self._training.set_targets(Targets(behaviour_log_prob, advantage, target / unit, old_value / unit))
        variance = float(valid_target.var()) if valid_target.size else 0.0
        return {
            "explained_variance": 1.0 - float(error.var()) / variance if variance > 0 else 0.0,
            "mean_rho": float(np.exp(np.minimum(log_rho[batch.valid], 20.0)).mean()) if valid_target.size else 1.0,
        }

    def _change_unit(self, scale: ReturnScale, target: Floats) -> np.float32:
        """Update the unit of values and rescale the value head, so that predicted values stay the same."""
        old_unit = scale.scale
        scale.update(target)
        for rows in self.policy.core.value_parameters():
            rows.mul_(old_unit / scale.scale)
        self.policy.value_scale.fill_(scale.scale)
        return np.float32(scale.scale)

    def _descend(self, schedule: _Schedule, should_stop: Callable[[], bool] | None) -> dict[str, float]:
        config = self._config
        evaluation, grad_norm, first_step = None, 0.0, self.gradient_steps
        for _ in range(config.epochs):
            for minibatch in self._training.epoch(config.minibatch_size, self._generator):
                if should_stop is not None and should_stop():
                    break
                evaluation = self._backpropagate(minibatch, schedule)
                grad_norm = self._parameters.clip_gradient(config.max_grad_norm)
                if not math.isfinite(grad_norm):
                    step = self.gradient_steps - first_step + 1
                    raise UpdateNotFinite(f"the gradient norm of gradient step {step} is {grad_norm}")
                self._optimizer.step(schedule.learning_rate)
                self.gradient_steps += 1
            else:
                if config.target_kl is None or evaluation is None or self._kl(evaluation) <= config.target_kl:
                    continue
            break
        if evaluation is None:
            return {}
        statistics = self._statistics(evaluation, schedule)
        if not all(map(math.isfinite, statistics.values())):
            raise UpdateNotFinite(f"the loss is not finite: {statistics}")
        return statistics | {"grad_norm": grad_norm}

    def _backpropagate(self, minibatch: Minibatch, schedule: _Schedule) -> _Evaluation:
        """Write the gradient of ``policy loss + c_v * value loss - c_e * entropy`` over ``minibatch``."""
        config, distribution, weight = self._config, self.policy.distribution, minibatch.weight
        head, value = self._training.backprop.forward(minibatch.inputs)
        if minibatch.action_mask is not None:
            head = mask_logits(head, minibatch.action_mask)
        terms = distribution.terms_of_many(head)
        log_prob = distribution.log_prob(terms, minibatch.action)
        log_prob_gradient = losses.policy_loss_gradient(
            log_prob, minibatch.behaviour_log_prob, minibatch.advantage, schedule.clip
        ).mul_(weight)
        head_gradient = distribution.gradient(
            terms, minibatch.action, log_prob_gradient, weight * -schedule.entropy_coefficient
        )
        value_gradient = losses.value_loss_gradient(value, minibatch.old_value, minibatch.target, config.value_clip)
        self._training.backprop.backward(head_gradient, value_gradient * (weight * config.value_coefficient))
        return _Evaluation(minibatch, terms, log_prob, value)

    def _kl(self, evaluation: _Evaluation) -> float:
        minibatch = evaluation.minibatch
        kl = losses.approximate_kl(evaluation.log_prob, minibatch.behaviour_log_prob)
        return float((kl * minibatch.weight).sum())

    def _statistics(self, evaluation: _Evaluation, schedule: _Schedule) -> dict[str, float]:
        minibatch, log_prob = evaluation.minibatch, evaluation.log_prob
        behaviour, weight = minibatch.behaviour_log_prob, minibatch.weight
        policy_loss = losses.policy_loss(log_prob, behaviour, minibatch.advantage, schedule.clip)
        value_loss = losses.value_loss(evaluation.value, minibatch.old_value, minibatch.target, self._config.value_clip)
        entropy = self.policy.distribution.entropy(evaluation.terms)
        clipped = losses.is_clipped(log_prob, behaviour, schedule.clip)
        return {
            "policy_loss": float((policy_loss * weight).sum()),
            "value_loss": float((value_loss * weight).sum()),
            "entropy": float((entropy * weight).sum()),
            "clip_fraction": float((clipped * weight).sum()),
            "approx_kl": self._kl(evaluation),
        }

    def _prepare_undo(self) -> Callable[[], None]:
        """Return a function that undoes everything that an update changes, from copies."""
        tensors = (self._parameters.values, *self._statistics_buffers(), self.policy.value_scale)
        copies = [tensor.clone() for tensor in tensors]
        optimizer = self._optimizer.state_dict()
        moments = {i: moments.state_dict() for i, moments in self._moments.items()}
        return_scale = self._return_scale.state_dict() if self._return_scale else None
        generator, gradient_steps = self._generator.get_state(), self.gradient_steps

        def undo() -> None:
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
            self._optimizer.load_state_dict(optimizer)
            for i, state in moments.items():
                self._moments[i].load_state_dict(state)
            if self._return_scale and return_scale is not None:
                self._return_scale.load_state_dict(return_scale)
            self._generator.set_state(generator)
            self.gradient_steps = gradient_steps

        return undo

    def _statistics_buffers(self) -> list[Tensor]:
        encoders = [encoder for _, encoder in self.policy.encoder.normalized()]
        return [buffer for encoder in encoders for buffer in (encoder.mean, encoder.inverse_std)]

    def _check_result(self) -> None:
        """Raise UpdateNotFinite unless parameters, optimizer and statistics are finite: their sums are finite, too."""
        for name, tensor in (
            ("parameters", self._parameters.values),
            *self._optimizer.tensors(),
            *(("statistics of observations", buffer) for buffer in self._statistics_buffers()),
            ("unit of values", self.policy.value_scale),
        ):
            if not math.isfinite(float(tensor.sum())):
                raise UpdateNotFinite(f"the {name} would not be finite")

    def state_dict(self) -> LearnerState:
        """Return everything that training needs to continue, as copies."""
        return {
            "policy": {name: tensor.clone() for name, tensor in self.policy.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "moments": {i: moments.state_dict() for i, moments in self._moments.items()},
            "return_scale": self._return_scale.state_dict() if self._return_scale else None,
            "generator": self._generator.get_state(),
            "env_steps": self.env_steps,
            "gradient_steps": self.gradient_steps,
        }

    def load_state_dict(self, state: LearnerState) -> None:
        """Continue from the state of a learner with the same spaces and settings, else raise CheckpointError."""
        try:
            self.policy.load_state_dict(state["policy"])
            self._optimizer.load_state_dict(state["optimizer"])
            for i, moments in self._moments.items():
                moments.load_state_dict(state["moments"][i])
            if self._return_scale:
                if state["return_scale"] is None:
                    raise TypeError("no scale of returns")
                self._return_scale.load_state_dict(state["return_scale"])
            self._generator.set_state(state["generator"])
            self.env_steps, self.gradient_steps = state["env_steps"], state["gradient_steps"]
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                "resume with the flags that the run began with: the checkpoint belongs to other spaces or another "
                f"configuration ({type(error).__name__}: {one_line(error, 140)})"
            ) from error


def _normalize(advantage: Floats, valid: Bools) -> Floats:
    chosen = advantage[valid]
    if chosen.size == 0:
        return advantage
    normalized: Floats = (advantage - chosen.mean()) / (chosen.std() + np.float32(1e-8))
    return normalized
