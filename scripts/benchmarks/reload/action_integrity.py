"""Action integrity under adoptions: recorded actions are computed again from the version that their rollout names.

The digest and the noise in a rollout's header, with the recorded observations, determine actions and log-probabilities,
which are computed again in numpy, without any engine or exported program.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from scripts.benchmarks.common.helper_process import HelperProcess, serve_actor
from scripts.benchmarks.common.prepared_versions import ENV_ID, PreparedVersion, read_prepared_versions, workspace
from scripts.benchmarks.common.processes import start_publisher
from scripts.benchmarks.common.result import Result
from shared.policy.noise import NoiseStream
from shared.policy.weights import decode_weights
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.store.policy_store import LocalPolicyStore

ADOPTIONS_PER_S = 50.0
TOLERANCE = 1e-4
"""Tolerance of log-probabilities and of the lead of the chosen action: float32 sums differ with their order."""

_NUM_ENVS = 64
_LENGTH = 16
_VERSIONS = 32
_CHANGE = 0.5  # so large that the versions differ in every log-probability
_ROLLOUTS_AT_ONCE = 256

Weights = Mapping[str, np.ndarray]


class Derivation(NamedTuple):
    """Counts of recorded transitions that were computed again.

    ``wrong`` ones have an action or log-probability that is not that of the recorded digest. In ``undecided`` ones the
    best two actions lie within the tolerance, so that either is right; their log-probabilities are compared.
    """

    transitions: int
    wrong: int
    undecided: int
    largest_difference: float

    def plus(self, other: "Derivation") -> "Derivation":
        transitions, wrong, undecided = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return Derivation(transitions, wrong, undecided, max(self.largest_difference, other.largest_difference))


def derive(rollouts: Sequence[Rollout], weights: Mapping[str, Weights], noise: Mapping[int, NoiseStream]) -> Derivation:
    """Compute the actions and log-probabilities of ``rollouts`` again and count the differences.

    ``weights`` are by digest (all transitions of an unknown one are wrong), ``noise`` streams by the headers' seeds.
    """
    total = Derivation(0, 0, 0, 0.0)
    for digest in {rollout.header.digest for rollout in rollouts}:
        own = [rollout for rollout in rollouts if rollout.header.digest == digest]
        observation = np.concatenate([rollout.observation[0][:-1].reshape(-1, 4) for rollout in own])
        action = np.concatenate([rollout.action.ravel() for rollout in own])
        log_prob = np.concatenate([rollout.behaviour_log_prob.ravel() for rollout in own])
        if digest not in weights:
            total = total.plus(Derivation(len(action), len(action), 0, 0.0))
            continue
        headers = [(rollout.header, t) for rollout in own for t in range(rollout.length)]
        drawn = np.concatenate([noise[header.noise_seed].at(header.noise_offset + t) for header, t in headers])
        total = total.plus(_derive(observation, action, log_prob, drawn, weights[digest]))
    return total


def _derive(
    observation: np.ndarray, action: np.ndarray, log_prob: np.ndarray, noise: np.ndarray, weights: Weights
) -> Derivation:
    log_probs = _log_probs(observation, weights)
    scores = log_probs + noise
    rows = np.arange(len(action))
    lead = scores.max(axis=1) - scores[rows, action]
    best_two = np.sort(scores, axis=1)[:, -2:]
    is_undecided = best_two[:, 1] - best_two[:, 0] < TOLERANCE
    difference = np.abs(log_probs[rows, action] - log_prob)
    allowed = TOLERANCE * (1 + np.abs(log_prob))
    is_wrong = (lead >= TOLERANCE) | ~(difference <= allowed)
    return Derivation(len(action), int(is_wrong.sum()), int(is_undecided.sum()), float(difference.max(initial=0.0)))


def _log_probs(observation: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the log-probabilities [N, actions] of a network with two hidden tanh layers."""
    hidden = observation
    for layer in (0, 2):
        hidden = np.tanh(hidden @ weights[f"core.policy.{layer}.weight"].T + weights[f"core.policy.{layer}.bias"])
    logits = hidden @ weights["core.policy.4.weight"].T + weights["core.policy.4.bias"]
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


class CheckedActor:
    """Acts in a batch of CartPoles, records rollouts as an actor does, and computes all of them again."""

    def __init__(self, store: Path, prepared: Path) -> None:
        versions = read_prepared_versions(prepared)
        self._weights = {version.manifest.digest: weights_of(version) for version in versions}
        self._agent = Agent(LocalPolicyStore(store), AgentOptions(num_envs=_NUM_ENVS, name="checked", sandbox=None))
        self._noise = NoiseStream(versions[0].manifest.signature.action, _NUM_ENVS, self._agent.noise_seed)
        self._worker = RolloutWorker(
            self._agent,
            make_environments(ENV_ID, _NUM_ENVS),
            RolloutLayout(versions[0].manifest.signature, _LENGTH),
            RolloutOptions(run_id="benchmark", actor_id="checked", seed=0),
        )

    def act_and_derive(self) -> tuple[Derivation, int]:
        """Record rollouts and compute them again; return the counts and the number of adoptions."""
        before = self._agent.adoptions
        rollouts = [rollout for _ in range(_ROLLOUTS_AT_ONCE) if (rollout := self._worker.collect()) is not None]
        noise = {self._agent.noise_seed: self._noise}
        return derive(rollouts, self._weights, noise), self._agent.adoptions - before


def weights_of(version: PreparedVersion) -> Weights:
    return decode_weights(version.files[version.manifest.weights])


def measure_action_integrity(transitions: int, console: Console, *, budget_s: float) -> list[Result]:
    """Count the wrong actions in that many transitions, or until ``budget_s`` seconds are over."""
    with (
        workspace(versions=_VERSIONS, change=_CHANGE) as paths,
        start_publisher(paths.prepared, paths.store) as publisher,
        HelperProcess(serve_actor, paths.logs, CheckedActor, paths.store, paths.prepared) as actor,
    ):
        publisher.call("begin", ADOPTIONS_PER_S)
        found, adoptions, printed = Derivation(0, 0, 0, 0.0), 0, 0
        deadline_s = time.monotonic() + budget_s
        while found.transitions < transitions and time.monotonic() < deadline_s:
            more, adopted = actor.call("act_and_derive")
            found, adoptions = found.plus(more), adoptions + adopted
            if (tenths := 10 * found.transitions // transitions) > printed:
                printed = tenths
                progress = f"  {found.transitions:,} transitions, {found.wrong} wrong, {adoptions:,} adoptions"
                console.print(progress, highlight=False)
        publisher.call("end")
    how = (
        f"{found.transitions:,} transitions of {_NUM_ENVS} CartPoles with {adoptions:,} adoptions, "
        f"{ADOPTIONS_PER_S:g} versions per second; action and log-probability computed again in numpy within "
        f"{TOLERANCE:g}; {found.undecided:,} actions lead by less, and only their log-probabilities are compared; "
        f"largest difference {found.largest_difference:.2g}"
    )
    return [
        Result.of("action integrity: wrong actions", [found.wrong], "actions", how, at_most=0.0),
        Result.of("action integrity: transitions", [found.transitions], "transitions", how, at_least=transitions),
        Result.of("action integrity: adoptions", [adoptions], "adoptions", how),
    ]
