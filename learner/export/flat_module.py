"""Modules as exporters see them: one flat list of tensors in, one out, with nested values rebuilt in between."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from learner.export.inputs.dynamic_sizes import NamedDims
from shared.errors import ExportError, one_line
from shared.policy.nested_values import (
    Classes,
    ConstantNode,
    DictNode,
    NumberNode,
    RecordNode,
    SequenceNode,
    Structure,
    TensorNode,
    flatten,
    leaf_nodes,
    unflatten,
)
from shared.policy.tensor_limits import NamedSize
from shared.scripting.script_modules import is_script_module, without_torch_warnings

_NUMBERS = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}


@dataclass(frozen=True)
class FlatInterface:
    """The flat tensors of a program: example inputs, the batch dimension of each or None, and the names in a graph.

    ``named_dims`` are the other dimensions of the inputs whose sizes vary, and ``sizes`` the ranges of those sizes.
    """

    example: Sequence[Tensor]
    batch_dims: Sequence[int | None]
    input_names: Sequence[str]
    output_names: Sequence[str]
    named_dims: NamedDims = field(default_factory=NamedDims)
    sizes: Sequence[NamedSize] = ()

    def dynamic_shapes(self, batch: torch.export.Dim) -> list[dict[int, torch.export.Dim]]:
        """Return the dimensions of each input that vary, for ``torch.export``."""
        return self.named_dims.shapes(self.batch_dims, self.sizes, batch)


class FlatModule(nn.Module):
    """Calls ``module`` with values rebuilt from the inputs, or from clones of them, and flattens the result."""

    def __init__(
        self, module: nn.Module, arguments: Structure, result: Structure, classes: Classes, *, clone: bool
    ) -> None:
        super().__init__()
        self.module = module
        self._arguments = arguments
        self._result = result
        self._classes = classes
        self._clone = clone

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        tensors = [tensor.clone() for tensor in inputs] if self._clone else inputs
        value = unflatten(self._arguments, tensors, self._classes)
        result = self.module(*value["args"], **value["kwargs"])
        leaves = flatten(self._result, result, "the result", constants=False)
        kinds = _leaf_kinds(self._result)
        outputs = [leaf if kind is None else _as_tensor(leaf, kind) for leaf, kind in zip(leaves, kinds, strict=True)]
        return _all_different(inputs, outputs)


def _all_different(inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Clone repeated tensors: a graph has one name for each, and an output may be an input or another output."""
    seen = {id(tensor) for tensor in inputs}
    different = []
    for output in outputs:
        different.append(output.clone() if id(output) in seen else output)
        seen.add(id(output))
    return different


def _as_tensor(number: "Tensor | float", kind: torch.dtype) -> Tensor:
    # In a trace, a size is a tensor already, and its computation is part of the program.
    return number.to(kind) if isinstance(number, Tensor) else torch.scalar_tensor(number, dtype=kind)


def _leaf_kinds(structure: Structure) -> Iterator[torch.dtype | None]:
    return (_NUMBERS[node.kind] if isinstance(node, NumberNode) else None for node in leaf_nodes(structure))


def flat_source(arguments: Structure, result: Structure, *, clone: bool) -> tuple[str, dict[str, str]]:
    """Return ``forward`` of a ``FlatModule`` as TorchScript source, and the class path of each record name in it."""
    writer = SourceWriter(clone=clone)
    assert isinstance(arguments, DictNode)
    args, kwargs = arguments.items
    assert isinstance(args, SequenceNode)
    assert isinstance(kwargs, DictNode)
    passed = [writer.expression(item) for item in args.items]
    passed += [f"{key}={writer.expression(item)}" for key, item in zip(kwargs.keys, kwargs.items, strict=True)]
    writer.lines.append(f"result = self.module({', '.join(passed)})")
    writer.take_apart(result, "result")
    outputs = ", ".join(writer.outputs)
    return writer.forward(f"[{outputs}]"), writer.records


class SourceWriter:
    """Statements of a ``forward`` that takes and returns flat tensors.

    ``expression`` nests the next inputs as a structure. ``take_apart`` appends the tensors of a result to ``outputs``.
    """

    def __init__(self, *, clone: bool = False) -> None:
        self.lines: list[str] = []
        self.outputs: list[str] = []
        self.records: dict[str, str] = {}
        self._clone = clone
        self._inputs = 0
        self._names = 0

    def forward(self, outputs: str) -> str:
        """Return the source of the function, which returns the list ``outputs``."""
        body = "\n    ".join([*self.lines, f"outputs: List[Tensor] = {outputs}", "return outputs"])
        return f"def forward(self, inputs: List[Tensor]) -> List[Tensor]:\n    {body}\n"

    def expression(self, structure: Structure) -> str:  # noqa: PLR0911 - one return for each kind of node
        match structure:
            case TensorNode() | NumberNode():
                self._inputs += 1
                return f"inputs[{self._inputs - 1}]" + (".clone()" if self._clone else "")
            case ConstantNode(kind="float", text=text):
                return text if text[-1].isdigit() else f"float('{text}')"
            case ConstantNode():
                return repr(structure.value)
            case SequenceNode(kind="list", items=items):
                return f"[{', '.join(map(self.expression, items))}]"
            case SequenceNode(items=items):
                return f"({''.join(f'{self.expression(item)}, ' for item in items)})"
            case DictNode(keys=keys, items=items):
                pairs = zip(keys, map(self.expression, items), strict=True)
                return f"{{{', '.join(f'{key!r}: {item}' for key, item in pairs)}}}"
            case RecordNode(class_path=class_path, items=items):
                name = f"Record{len(self.records)}"
                self.records[name] = class_path
                return f"{name}({', '.join(map(self.expression, items))})"

    def take_apart(self, structure: Structure, value: str) -> None:
        match structure:
            case TensorNode():
                name = self._name(value)
                self.lines.append(f"assert {name} is not None")  # makes a Tensor of an Optional[Tensor]
                self.outputs.append(name)
            case NumberNode(kind=kind):
                self.outputs.append(self._name(f"torch.tensor({value}, dtype={_NUMBERS[kind]})"))
            case ConstantNode():
                pass
            case RecordNode(fields=fields, items=items):
                name = self._name(value)
                for field, item in zip(fields, items, strict=True):
                    self.take_apart(item, f"{name}.{field}")
            case DictNode(keys=keys, items=items):
                name = self._name(value)
                for key, item in zip(keys, items, strict=True):
                    self.take_apart(item, f"{name}[{key!r}]")
            case SequenceNode(items=items):
                name = self._name(value)
                for i, item in enumerate(items):
                    self.take_apart(item, f"{name}[{i}]")

    def _name(self, value: str) -> str:
        self._names += 1
        self.lines.append(f"value{self._names} = {value}")
        return f"value{self._names}"


def copy_for_export(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode, without gradients. Raises ExportError, also for packed weights."""
    try:
        # With gradients, a copy of a scripted module holds the results of clone(), which are no leaves.
        with torch.no_grad(), without_torch_warnings():
            copied = copy.deepcopy(module, _computed(module)).cpu().eval()
        for parameter in copied.parameters():  # a ScriptModule has no requires_grad_
            parameter.requires_grad_(False)
    except Exception as error:  # a policy's own code may raise anything
        raise ExportError(f"the module cannot be copied: {type(error).__name__}: {error}") from error
    _check_weights_travel(copied)
    _fix_infinities(copied)
    return copied


def _computed(module: nn.Module) -> dict[int, Tensor]:
    """Return copies of attributes that an older weight_norm has computed with gradients: torch copies leaves only."""
    attributes = (value for piece in module.modules() for value in vars(piece).values() if isinstance(value, Tensor))
    return {id(tensor): tensor.detach().clone() for tensor in attributes if not tensor.is_leaf}


def _fix_infinities(module: nn.Module) -> None:
    """Turn buffers with infinities, such as additive masks, into constants of the program: weights are finite."""
    for piece in module.modules():
        if is_script_module(piece):
            continue
        for name, buffer in list(piece._buffers.items()):
            if buffer is not None and buffer.is_floating_point() and _is_infinite(buffer):
                del piece._buffers[name]
                setattr(piece, name, buffer)


def _is_infinite(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and bool(tensor.isinf().any()) and not bool(tensor.isnan().any())


def _check_weights_travel(module: nn.Module) -> None:
    """Raise ExportError for weights in the state dict that are no plain tensors, such as those of quantized layers.

    They would be missing from the weights file, so the weights of a later version would change nothing.
    """
    for name, value in module.state_dict().items():
        if isinstance(value, torch.ScriptObject) or _holds_packed(value):
            layer = name.partition("._")[0]
            kind = type(module.get_submodule(layer)).__qualname__ if "._" in name else "module"
            raise ExportError(
                f"export the float module, before it is quantized: {one_line(layer, 80)} ({kind}) packs its weights, "
                "which a weights file cannot hold, so the weights of later versions would not reach the program"
            )


def _holds_packed(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.is_quantized
    return isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value)


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress log lines, warnings and printed programs; the comparison with eager decides about a program."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
