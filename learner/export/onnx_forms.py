"""Forms of operators in ONNX graphs that stay right for large inputs, in place of the exporter's own.

The exporter writes ``log_sigmoid`` as Log(Sigmoid(x)), whose sigmoid rounds to 0, and ``logaddexp`` as a sum of Exp,
which overflows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset18

_op: Any = opset18  # its annotations are those of graphs; a form is called with the exporter's own values


def _log_sigmoid(x: Any) -> Any:
    return _op.Sub(_op.Min(x, _op.CastLike(0.0, x)), _log_of_one_and_exp_of_minus(_op.Abs(x), x))


def _logaddexp(x: Any, y: Any) -> Any:
    return _op.Add(_op.Max(x, y), _log_of_one_and_exp_of_minus(_op.Abs(_op.Sub(x, y)), x))


def _log_of_one_and_exp_of_minus(x: Any, like: Any) -> Any:
    # Only values of the module have a known type, by which a cast of a constant is removed.
    return _op.Log(_op.Add(_op.Exp(_op.Neg(x)), _op.CastLike(1.0, like)))


STABLE_FORMS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.log_sigmoid.default: _log_sigmoid,
    torch.ops.aten.logaddexp.default: _logaddexp,
}
"""The argument ``custom_translation_table`` of ``torch.onnx.export``."""
