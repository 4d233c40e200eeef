"""Agents of CleanRL's single-file scripts, as objects or by file and class.

CleanRL is no package: an agent is a class of a script. The importer calls the agent's own ``get_action_and_value``
(PPO and its relatives, with or without LSTM), ``get_action`` (SAC, C51) or ``forward`` (DQN, Rainbow, DDPG, TD3), in
which the distributions of torch are replaced by stand-ins that record their parameters. So every network in front of
them, scaled images included, is the agent's own code.
"""

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from learner.export.given_module import module_of
from learner.export.module_source import load_plain
from learner.export.spaces_policy import SpacesPolicy
from learner.importers.agreement import check_actions, quiet_inputs
from learner.importers.recorded_distributions import Recorded, with_stand_ins
from learner.networks.action_scaling import Scaling, normal_log_prob
from shared.errors import ConfigurationError, ExportError, WeightsError, one_line

_METHODS = ("get_action_and_value", "get_action", "forward")
_ATOL = _RTOL = 1e-4


def from_cleanrl(
    agent: nn.Module, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> SpacesPolicy:
    """Return an agent, actor or Q-network of a CleanRL script under the policy contract, with its ``signature``.

    The layers are shared with the agent. Zero noise is the most likely action; DQN, C51 and Rainbow act greedily, and
    DDPG and TD3 without exploration noise, because these are parts of the script and not of the agent.

    Args:
        agent: An instance of ``Agent``, ``Actor``, ``QNetwork`` or a class with the same methods.
        observation_space: The space of one environment, after the wrappers of the script.
        action_space: The action space of one environment.

    Raises:
        ConfigurationError: The object has none of the methods, or the spaces are not supported.
        ExportError: The agent's own actions or log-probabilities differ.
    """
    agent = module_of(agent)
    if not isinstance(observation_space, spaces.Box):
        raise ConfigurationError(
            "flatten the observations in a wrapper: agents of CleanRL read one Box, "
            f"found {one_line(observation_space, 100)}"
        )
    module = _AgentCall(agent, isinstance(action_space, spaces.Discrete))
    policy = SpacesPolicy(
        module, observation_space, action_space, state=module.example_state(), scaling=_scaling(agent, module)
    )
    _check(policy, module)
    return policy


def load_agent(
    source: str,
    weights: Path | None,
    own_spaces: tuple[spaces.Space[Any], spaces.Space[Any]],
    arguments: Mapping[str, Any],
) -> nn.Module:
    """Return the class of ``agent_file.py:Class``, constructed for the spaces, with the weights of a CleanRL file.

    Runs the file's module-level code. No pickle is read: CleanRL saves state dicts, alone, first in a tuple, or as
    ``model_weights``. Raises ConfigurationError and WeightsError.
    """
    cls = _find_class(source)
    observation, action = own_spaces
    # Agents read the spaces of a vector environment, and nothing else of it.
    envs = SimpleNamespace(
        single_observation_space=observation,
        single_action_space=action,
        observation_space=observation,
        action_space=action,
    )
    try:
        agent: nn.Module = cls(envs, **arguments)
    except Exception as error:  # a user's class may raise anything
        raise ConfigurationError(f"{source} cannot be constructed: {type(error).__name__}: {error}") from error
    if weights is not None:
        try:
            agent.load_state_dict(_state_dict(weights))
        except RuntimeError as error:
            raise WeightsError(f"{weights} does not fit {source}: {error}") from error
    return agent.eval()


def _find_class(source: str) -> type[nn.Module]:
    file, _, name = source.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigurationError(f"expected a file and its class like ppo.py:Agent; there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"cleanrl_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"expected a Python file, found {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a script may raise anything
        raise ConfigurationError(
            f"install what the script imports, or add it to PYTHONPATH: {path} raises {type(error).__name__}: {error}"
        ) from error
    found: object = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigurationError(f"name a class of the file that is a torch.nn.Module: {path} has no class {name!r}")
    return found


def _state_dict(weights: Path) -> Mapping[str, Tensor]:
    found = load_plain(weights)
    if isinstance(found, tuple | list) and found:
        found = found[0]  # the actor, before its critics
    if isinstance(found, Mapping):
        found = found.get("model_weights", found)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{weights}: expected the state dict of a CleanRL agent, found a {type(found).__name__}")
    return found


class _AgentCall(nn.Module):
    """Calls the agent and returns its results by the names of ``SpacesPolicy``."""

    def __init__(self, agent: nn.Module, is_discrete: bool) -> None:
        super().__init__()
        self.agent = agent
        self._is_discrete = is_discrete
        self.method, self._function = _method(agent)
        self.is_recurrent = "lstm_state" in inspect.signature(self._function).parameters

    def example_state(self) -> dict[str, Tensor] | None:
        """Return a state ``[1, layers, hidden]``, or None if the agent has no LSTM."""
        if not self.is_recurrent:
            return None
        lstm = self.agent.lstm
        if not isinstance(lstm, nn.LSTM):
            raise ConfigurationError(f"expected an nn.LSTM as the agent's lstm, found {type(lstm).__name__}")
        return {name: torch.zeros(1, lstm.num_layers, lstm.hidden_size) for name in ("h", "c")}

    def forward(self, observation: Tensor, state: dict[str, Tensor] | None = None) -> dict[str, Any]:
        recorded = Recorded()
        call = with_stand_ins(self._function, recorded)
        results = _tuple(call(self.agent, *self.arguments(observation, state)))
        found: dict[str, Any] = {}
        if recorded.logits:
            found["logits"] = torch.cat([logits.flatten(1) for logits in recorded.logits], -1)
        elif recorded.gaussians:
            mean, std = recorded.gaussians[0]
            found |= {"mean": mean, "log_std": std.log()}
        elif self.method == "get_action_and_value":
            raise ExportError(
                "construct Categorical or Normal of torch.distributions in get_action_and_value itself: "
                f"that of {type(self.agent).__name__} constructs none"
            )
        else:
            found |= self.greedy(results[0])
        if self.method == "get_action_and_value":
            found["value"] = results[3]
        if state is not None:
            h, c = results[-1]
            found["state"] = {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}
        return found

    def arguments(self, observation: Tensor, state: dict[str, Tensor] | None) -> tuple[Any, ...]:
        x = observation.to(torch.float32)  # as the scripts do, with torch.Tensor(observation)
        if state is None:
            return (x,)
        # The batch size comes from the state: agents take the time from the ratio of the two.
        lstm_state = tuple(state[name].transpose(0, 1) for name in ("h", "c"))
        return (x, lstm_state, torch.zeros_like(state["h"][:, 0, 0]))

    def greedy(self, result: Tensor) -> dict[str, Tensor]:
        """Return what the result of a policy without distribution stands for."""
        if not self._is_discrete or not result.is_floating_point():
            return {"action": result}
        if result.ndim == 3:  # Rainbow: probabilities [B, actions, atoms]
            support: Any = self.agent.support
            result = (result * support).sum(2)
        return {"q_values": result}


def _method(agent: nn.Module) -> tuple[str, FunctionType]:
    for name in _METHODS:
        found = getattr(type(agent), name, None)
        if isinstance(found, FunctionType) and found is not nn.Module.forward:
            return name, found
    raise ConfigurationError(
        f"pass an agent with one of the methods {', '.join(_METHODS)}, as in the scripts of CleanRL; "
        f"found {type(agent).__name__}"
    )


def _scaling(agent: nn.Module, module: _AgentCall) -> Scaling | None:
    """Return the bounds of a squashed Gaussian, which SAC keeps as scale and bias."""
    scale, bias = getattr(agent, "action_scale", None), getattr(agent, "action_bias", None)
    if module.method == "forward" or not (isinstance(scale, Tensor) and isinstance(bias, Tensor)):
        return None
    low, high = ((bias + sign * scale).flatten().tolist() for sign in (-1, 1))
    return Scaling(squashes=True, low=low, high=high)


def _tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def own_results(module: _AgentCall, inputs: list[np.ndarray]) -> tuple[Any, ...]:
    """Return what the agent itself computes for ``inputs`` with zero state. Random numbers are drawn apart."""
    state = module.example_state()
    if state is not None:
        state = {name: value.expand(len(inputs[0]), -1, -1).contiguous() for name, value in state.items()}
    was_training = module.training
    module.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        own_method = getattr(module.agent, module.method)
        results = _tuple(own_method(*module.arguments(torch.from_numpy(inputs[0]), state)))
    module.train(was_training)
    return results


def _check(policy: SpacesPolicy, module: _AgentCall) -> None:
    """Raise ExportError unless the agent's own actions, or log-probabilities of drawn ones, are the policy's."""
    inputs = quiet_inputs(policy)
    results = own_results(module, inputs)
    if policy.signature.output_position("log_prob") is None:
        check_actions(policy, lambda _: _greedy_actions(module, results[0]), "CleanRL")
    elif policy.unscale is not None:  # SAC returns the action of the mean, too
        check_actions(policy, lambda _: results[2].numpy(), "CleanRL")
    else:
        _check_log_prob(policy, results, inputs)


def _greedy_actions(module: _AgentCall, result: Tensor) -> np.ndarray:
    found = module.greedy(result)
    action = found["q_values"].argmax(1) if "q_values" in found else found["action"]
    return action.numpy()


def _check_log_prob(policy: SpacesPolicy, results: tuple[Any, ...], inputs: list[np.ndarray]) -> None:
    action, log_prob = results[0], results[1]
    observation, state, _ = policy.arguments([torch.from_numpy(array) for array in inputs])
    with torch.no_grad():
        found = policy.module(observation, state)
    if "logits" in found:
        own = policy.distribution.log_prob(policy.distribution.terms(found["logits"]), action)
    else:
        mean, log_std = found["mean"].flatten(1), found["log_std"].flatten(1)
        own = normal_log_prob((action.flatten(1) - mean) / log_std.exp(), log_std)
    if log_prob.shape != own.shape:  # SAC with discrete actions returns those of all actions
        log_prob = log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    if not torch.allclose(own, log_prob, _RTOL, _ATOL):
        raise ExportError(
            "write an nn.Module that returns logits, or mean and log_std, and publish that with publish_policy: "
            f"the imported policy has other log-probabilities. The agent's are {one_line(log_prob[:4].tolist(), 60)}, "
            f"the module's {one_line(own[:4].tolist(), 60)}"
        )
