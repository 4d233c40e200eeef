"""The results of a user's module by name, and the observations that it takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import spaces
from torch import Tensor

from shared.errors import ExportError
from shared.policy.nested_values import DictNode, RecordNode, SequenceNode, Structure, TensorNode, describe
from shared.policy.spaces import ActionSpec

OUTPUTS = ("logits", "mean", "log_std", "q_values", "action", "value", "state")
HEADS = ("logits", "mean", "q_values", "action")


def space_structure(space: spaces.Space[Any]) -> Structure:
    """Return the nesting of an observation of ``space``, with tensors in the order of ``observation_leaves``."""
    match space:
        case spaces.Dict():
            return DictNode(tuple(space.spaces), tuple(space_structure(child) for child in space.spaces.values()))
        case spaces.Tuple():
            return SequenceNode("tuple", tuple(space_structure(child) for child in space.spaces))
    return TensorNode()


def named_outputs(result: Any, outputs: Sequence[str], action: ActionSpec) -> dict[str, Any]:
    """Return a module's results by name; ``outputs`` names the items of a tuple or list. Raises ExportError."""
    if isinstance(result, Tensor):
        head = "mean" if action.kind == "box" else "logits" if result.is_floating_point() else "action"
        return {outputs[0] if outputs else head: result}
    structure = describe(result, "the result")[0]
    if isinstance(structure, RecordNode):
        result = {name: getattr(result, name) for name in structure.fields}
    elif isinstance(structure, SequenceNode):
        if len(result) != len(outputs):
            raise ExportError(
                f"name the {len(result)} items that the module returns with outputs, each one of {', '.join(OUTPUTS)}"
            )
        result = dict(zip(outputs, result, strict=True))
    if not isinstance(result, Mapping):
        raise ExportError(
            f"return a tensor, a dict, a record or a tuple from the module; found {type(result).__name__}"
        )
    return {name: result[name] for name in OUTPUTS if result.get(name) is not None}
