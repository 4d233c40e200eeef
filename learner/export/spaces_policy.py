"""A user's module as an acting policy: observation and action space give the signature.

The module is called as ``module(observation)``, with ``state`` and then ``mask`` as further arguments if the policy has
them. ``observation`` is nested as the space is, batch first. The module returns:

- ``logits`` (Discrete, MultiDiscrete side by side, MultiBinary), or ``mean`` (Box; the action, or with ``log_std`` the
  mean of the distribution that it is drawn from), or ``q_values`` (Discrete; the action of the highest), or ``action``,
  counted from 0;
- ``value`` ``[B]`` or ``[B, 1]`` and the next ``state``, if it has them;

as a dict, named tuple or dataclass with these names, as a list or tuple in the order of ``outputs``, or as one tensor.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from learner.export.flat_module import SourceWriter
from learner.export.given_module import module_of
from learner.export.inputs.eager_module import dtype_remedy
from learner.export.module_results import HEADS, OUTPUTS, named_outputs, space_structure
from learner.networks.action_scaling import Scaling, Unscale, lead_of_best, log_tanh_derivative
from learner.networks.distributions import make_distribution, mask_logits
from shared.errors import ConfigurationError, ExportError, SignatureMismatch, one_line
from shared.policy.nested_values import (
    ConstantNode,
    DictNode,
    RecordNode,
    SequenceNode,
    Structure,
    TensorNode,
    describe,
    flatten,
    leaf_names,
    unflatten,
)
from shared.policy.probe import make_inputs
from shared.policy.signature import PolicySignature, acting_signature
from shared.policy.spaces import action_spec, observation_leaves

if TYPE_CHECKING:
    from shared.scripting.scripting import ScriptModule


class SpacesPolicy(nn.Module):
    """Wraps ``module``, which is shared: ``forward`` takes and returns flat tensors in the order of ``signature``."""

    signature: PolicySignature

    def __init__(
        self,
        module: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        state: Any = None,
        masked: bool = False,
        outputs: Sequence[str] | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        """Call the module once; ``state`` is an example of its state. Raises ConfigurationError and ExportError.

        With ``scaling``, the module's mean or action is in the units of [-1, 1].
        """
        super().__init__()
        self.module = module
        self._action = action_spec(action_space)
        if masked and self._action.mask_shape is None:
            raise ConfigurationError(
                "publish without masked: a mask allows single choices of a Discrete or MultiDiscrete action space, "
                f"found {self._action.kind}"
            )
        self._outputs = tuple(outputs or ())
        if set(self._outputs) - set(OUTPUTS):
            raise ConfigurationError(f"expected outputs from {OUTPUTS}, found {self._outputs}")
        leaves = observation_leaves(observation_space)
        self._observation = space_structure(observation_space)
        self._n_observations = len(leaves)
        self._state, tensors, self._classes = describe(state, "state")
        self._has_state = bool(tensors)
        self._masked = masked
        states = [
            ((name,) if name else (), tuple(t.shape[1:]))
            for name, t in zip(leaf_names(self._state), tensors, strict=True)
        ]
        self.distribution = make_distribution(self._action, 0.0)
        for parameter in self.distribution.parameters():
            parameter.requires_grad_(False)
        self._squashes = scaling is not None and scaling.squashes
        self._squashes_mean = scaling is None or scaling.squashes_mean
        self.unscale = None if scaling is None else Unscale(self._action, scaling.low, scaling.high)
        found = self._called(acting_signature(leaves, self._action, state=states, masked=masked))
        self._head = next(head for head in HEADS if head in found)
        self._is_drawn = "logits" in found or "log_std" in found
        self.signature = acting_signature(
            leaves,
            self._action,
            state=states,
            masked=masked,
            noise=self._is_drawn,
            log_prob=self._is_drawn,
            value="value" in found,
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Compute the outputs of the signature."""
        found = self._parts(inputs)
        action, log_prob = self._act(found, inputs)
        outputs = [action]
        if self._action.has_env_action:
            scaled = action if self.unscale is None else self.unscale(action)
            outputs.append(self.distribution.env_action(scaled))
        if self._is_drawn:
            outputs.append(log_prob)
        if "value" in found:
            outputs.append(found["value"].reshape(action.shape[0]))
        if self._has_state:
            outputs += flatten(self._state, found["state"], "the state", constants=False)
        return outputs

    def choice_lead(self, inputs: list[Tensor]) -> Tensor:
        """Return the lead of the best Q-value [B], or infinity without Q-values; see ``shared.policy.probe``."""
        values = self._parts(inputs).get("q_values")
        return torch.full(inputs[0].shape[:1], torch.inf) if values is None else lead_of_best(values.flatten(1))

    def arguments(self, inputs: list[Tensor]) -> tuple[Any, Any, Tensor | None]:
        """Return observation, state and mask as the module takes them, each None without it, from flat inputs."""
        n = self._n_observations
        observation = unflatten(self._observation, inputs[:n])
        state = None
        if self._has_state:
            n_states = len(leaf_names(self._state))
            state = unflatten(self._state, inputs[n : n + n_states], self._classes)
            n += n_states
        return observation, state, inputs[n] if self._masked else None

    def _parts(self, inputs: list[Tensor]) -> dict[str, Any]:
        return named_outputs(self._result_of(inputs), self._outputs, self._action)

    def _result_of(self, inputs: list[Tensor]) -> Any:
        observation, state, mask = self.arguments(inputs)
        args = [observation, *([state] if self._has_state else []), *([mask] if self._masked else [])]
        return self.module(*args)

    def _act(self, found: Mapping[str, Any], inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        if "action" in found:
            action = found["action"]
            return action.to(getattr(torch, self._action.sample_dtype)).reshape(-1, *self._action.shape), action
        if "mean" in found:
            mean = found["mean"].reshape(-1, *self._action.shape)
            if not self._is_drawn:
                return torch.tanh(mean) if self._squashes else mean, mean
            sample, log_prob = _gaussian(mean, _alike(found["log_std"], list(self._action.shape)), inputs[-1])
            return self._squashed(sample, log_prob, inputs[-1]) if self._squashes else (sample, log_prob)
        if "q_values" in found:
            action = found["q_values"].flatten(1).argmax(-1)
            return action, action
        logits = found["logits"].flatten(1)
        if self._masked:
            logits = mask_logits(logits, inputs[-2])
        terms = self.distribution.terms(logits)
        action = self.distribution.sample(terms, inputs[-1])
        return action, self.distribution.log_prob(terms, action)

    def scripted(self) -> "ScriptModule":
        """Return ``forward`` as a TorchScript program. Raises what torch says of the module."""
        from shared.scripting.scripting import script, script_around

        if self.unscale is not None:  # only importers scale actions, and their modules cannot be scripted
            raise ExportError("a policy whose actions are scaled is traced, not scripted")
        module = script(self.module)
        writer = SourceWriter()
        arguments = [writer.expression(self._observation)]
        if self._has_state:
            arguments.append(writer.expression(self._state))
        if self._masked:
            arguments.append(writer.expression(TensorNode()))
        writer.lines.append(f"result = self.module({', '.join(arguments)})")
        found: dict[str, str] = {}
        state: list[str] = []
        for name, (structure, value) in self._places().items():
            writer.outputs.clear()
            # Of the state in its own order: a dict of the result may have another one.
            writer.take_apart(self._state if name == "state" else structure, value)
            found[name] = writer.outputs[0] if writer.outputs else value
            state = list(writer.outputs) if name == "state" else state
        writer.lines += self._act_source(found)
        outputs = ["action"]
        if self._action.has_env_action:
            outputs.append("self.distribution.env_action(action)")
        if self._is_drawn:
            outputs.append("log_prob")
        if "value" in found:
            outputs.append(f"{found['value']}.reshape([action.size(0)])")
        names = {name: self._classes[class_path] for name, class_path in writer.records.items()}
        forward = writer.forward(f"[{', '.join([*outputs, *state])}]")
        return script_around(
            {"module": module, "distribution": self.distribution}, forward, {**_FUNCTIONS, **names, "torch": torch}
        )

    def _places(self) -> dict[str, tuple[Structure, str]]:
        """Return the structure of each named item of the module's result, and the source that finds it."""
        items: dict[str, tuple[Structure, str]]
        match self._result:
            case SequenceNode(items=found):
                items = {
                    name: (item, f"result[{i}]")
                    for i, (name, item) in enumerate(zip(self._outputs, found, strict=True))
                }
            case DictNode(keys=keys, items=found):
                items = {str(key): (item, f"result[{key!r}]") for key, item in zip(keys, found, strict=True)}
            case RecordNode(fields=fields, items=found):
                items = {name: (item, f"result.{name}") for name, item in zip(fields, found, strict=True)}
            case _:
                items = {self._head: (self._result, "result")}
        return {name: items[name] for name in OUTPUTS if name in items and items[name][0] != ConstantNode("none")}

    def _act_source(self, found: Mapping[str, str]) -> list[str]:
        """Return the statements of ``_act``."""
        shape = f"[-1{''.join(f', {size}' for size in self._action.shape)}]"
        if "action" in found:
            return [f"action = {found['action']}.to(torch.{self._action.sample_dtype}).reshape({shape})"]
        if "mean" in found:
            mean = f"{found['mean']}.reshape({shape})"
            if not self._is_drawn:
                return [f"action = {mean}"]
            log_std = f"_alike({found['log_std']}, {list(self._action.shape) or 'annotate(List[int], [])'})"
            return [f"action, log_prob = _gaussian({mean}, {log_std}, inputs[-1])"]
        if "q_values" in found:
            return [f"action = {found['q_values']}.flatten(1).argmax(-1)"]
        logits = f"{found['logits']}.flatten(1)"
        return [
            f"logits = mask_logits({logits}, inputs[-2])" if self._masked else f"logits = {logits}",
            "terms = self.distribution.terms(logits)",
            "action = self.distribution.sample(terms, inputs[-1])",
            "log_prob = self.distribution.log_prob(terms, action)",
        ]

    def _squashed(self, sample: Tensor, log_prob: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action = torch.tanh(sample)
        if not self._squashes_mean:
            is_drawn = (noise.flatten(1) != 0).any(1).reshape(-1, *[1] * len(self._action.shape))
            action = torch.where(is_drawn, action, sample)
        return action, log_prob - log_tanh_derivative(sample.flatten(1))

    def _called(self, signature: PolicySignature) -> dict[str, Any]:
        """Return the module's named results for plausible inputs. Raises ExportError if they define no action."""
        inputs = [torch.from_numpy(array) for array in make_inputs(signature, 3, seed=0)]
        was_training = getattr(self.module, "training", False)  # a frozen module has none
        self.module.eval()
        try:
            with torch.no_grad():
                result = self._result_of(inputs)
            self._result = describe(result, "the result")[0]
            found = named_outputs(result, self._outputs, self._action)
        except (ExportError, SignatureMismatch):
            raise
        except Exception as error:  # a module's own code may raise anything
            reason = f"the module, called with inputs of its spaces, raises {type(error).__name__}: {error}"
            raise ExportError(dtype_remedy(self.module, error) + reason) from error
        finally:
            self.module.train(was_training)
        self._check_sizes(found)
        if "q_values" in found and self._action.kind != "discrete":
            raise ExportError(f"return q_values for a Discrete action space only, found {self._action.kind}")
        if sum(head in found for head in HEADS) != 1:
            raise ExportError(f"return exactly one of {', '.join(HEADS)} from the module; found {sorted(found)}")
        if self._has_state != (found.get("state") is not None):
            raise ExportError("pass an example of the state and return the next state: found only one of the two")
        return found

    def _check_sizes(self, found: Mapping[str, Any]) -> None:
        expected = math.prod(self._action.noise_shape)
        for head in ("logits", "mean", "q_values"):
            size = (
                found[head].flatten(1).shape[1]
                if isinstance(found.get(head), Tensor) and found[head].ndim
                else expected
            )
            if size != expected:
                raise ExportError(
                    f"return {expected} {head} for each row, as the action space has: the module returns {size}"
                )


def contract_policy(
    module: nn.Module,
    own_spaces: tuple[spaces.Space[Any] | None, spaces.Space[Any] | None],
    *,
    state: Any = None,
    masked: bool = False,
    outputs: Sequence[str] | None = None,
) -> tuple[nn.Module, PolicySignature]:
    """Return ``module`` under the policy contract, with its signature; one without is wrapped in a ``SpacesPolicy``.

    ``own_spaces`` are the observation and the action space; a module with a signature needs none. Raises
    ConfigurationError and ExportError.
    """
    observation_space, action_space = own_spaces
    module = module_of(module)
    signature = getattr(module, "signature", None)
    if observation_space is None or action_space is None:
        if not isinstance(signature, PolicySignature):
            raise ConfigurationError("pass the environment's observation_space and action_space with the module")
        return module, signature
    if not isinstance(signature, PolicySignature):
        policy = SpacesPolicy(module, observation_space, action_space, state=state, masked=masked, outputs=outputs)
        module, signature = policy, policy.signature
    for given, own in (
        (observation_leaves(observation_space), signature.observation),
        (action_spec(action_space), signature.action),
    ):
        if given != own:
            raise ConfigurationError(
                "pass the environment's own spaces: "
                f"expected {one_line(given, 100)}, the policy acts in {one_line(own, 100)}"
            )
    return module, signature


def _alike(log_std: Tensor, shape: list[int]) -> Tensor:
    """Return ``log_std`` with actions of ``shape`` in its last dimensions, unless one number is for several of them."""
    n = 1
    is_nested = log_std.ndim >= len(shape)
    # From the right, and sizes of the space first: a comparison with the batch size would fix it in a graph.
    for i in range(len(shape)):
        n *= shape[i]
        if is_nested and log_std.shape[log_std.ndim - 1 - i] != shape[len(shape) - 1 - i]:
            is_nested = False
    if is_nested or (log_std.ndim > 0 and log_std.shape[-1] == n):
        return log_std.reshape([-1] + shape)  # noqa: RUF005 - TorchScript unpacks no list
    if log_std.ndim == 2:  # [B, 1]
        for _ in range(len(shape) - 1):
            log_std = log_std.unsqueeze(-1)
    return log_std


def _gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    deviation = noise * log_std.exp()
    log_prob = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return mean + deviation, log_prob.flatten(1).sum(1) if log_prob.ndim > 1 else log_prob


_FUNCTIONS = {"mask_logits": mask_logits, "_alike": _alike, "_gaussian": _gaussian}
