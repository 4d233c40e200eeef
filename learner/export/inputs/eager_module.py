"""The module itself, called with flat tensors, and its results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.engines.torch_arrays import array_of, tensor_of
from shared.errors import ExportError, SignatureMismatch
from shared.policy.nested_values import Structure, describe, merge, unflatten
from shared.policy.signature import Parameter


@dataclass
class EagerModule:
    """A module in eval mode with the structure of its arguments; a call sets ``writes_inputs`` if it changes them."""

    module: nn.Module
    arguments: Structure
    classes: dict[str, type[Any]] = field(default_factory=dict)
    parameters: Sequence[Parameter] = ()
    writes_inputs: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        copies = [tensor.clone() for tensor in tensors]
        value = unflatten(self.arguments, copies, self.classes)
        with torch.no_grad():
            result = self.module(*value["args"], **value["kwargs"])
        if not all(map(equal, tensors, copies)):
            self.writes_inputs = True
        return result

    def checked(self, tensors: Sequence[Tensor]) -> Any:
        """Return the result. Raises ExportError."""
        try:
            return self(tensors)
        except Exception as error:  # a module's own code may raise anything
            reason = f"{dtype_remedy(self.module, error)}the module itself raises {type(error).__name__}: {error}"
            raise ExportError(reason) from error


def dtype_remedy(module: nn.Module, error: Exception) -> str:
    """Return the beginning of a message for an error that mixed dtypes may have caused, or an empty text."""
    coarse = {tensor.dtype for tensor in (*module.parameters(), *module.buffers())} & {torch.bfloat16, torch.float16}
    if not coarse or not isinstance(error, RuntimeError) or not any(word in str(error) for word in ("dtype", "type (")):
        return ""
    return f"export module.float(), or pass its own dtype (x.to({coarse.pop()})): "


def tensors_of(leaves: Iterable[np.ndarray | Tensor]) -> list[Tensor]:
    """Return copies on the CPU, detached. Raises ExportError for a tensor that no file of a version can hold."""
    tensors = []
    for leaf in leaves:
        tensor = tensor_of(np.array(leaf)) if isinstance(leaf, np.ndarray) else leaf.detach().cpu().contiguous()
        try:
            array_of(tensor)
        except (TypeError, RuntimeError) as error:
            raise ExportError(f"an argument cannot cross into a program: {error}") from error
        if tensor.is_complex():
            raise ExportError(
                "pass torch.view_as_real(x), and call torch.view_as_complex in forward: an argument is "
                f"{tensor.dtype}, and programs take and return real numbers"
            )
        tensors.append(tensor.clone())
    return tensors


def merged(results: Sequence[Any]) -> Structure:
    """Return one structure for all results. Raises ExportError if they differ."""
    try:
        structure = describe(results[0], "the result")[0]
        for result in results[1:]:
            structure = merge(structure, describe(result, "the result")[0], "the result")
    except SignatureMismatch as error:
        raise ExportError(str(error)) from error
    return structure


def result_tensors(result: Any) -> list[Tensor]:
    """Return the tensors of a result, in order; numbers become tensors too."""
    return [torch.as_tensor(leaf) for leaf in describe(result, "the result")[1]]


def is_finite(result: Any) -> bool:
    """Return True unless a float of ``result`` is infinite or NaN."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in result_tensors(result) if tensor.is_floating_point())


def equal(a: Tensor, b: Tensor) -> bool:
    """Return True for tensors of one shape with the same numbers; NaN equals NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124


def first_line(error: object) -> str:
    """Return the first line of an error of the module."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
