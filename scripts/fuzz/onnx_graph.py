"""ONNX graphs: the check of operators, external initializers, pruning, and the reader of the row compiler."""

import contextlib

import onnx

from shared.engines.onnx_graph import external_initializers, keep_outputs
from shared.engines.row_compiler.graph_reader import read_graph
from shared.errors import ProgramError, ProgramUnsupported
from shared.operators.program_check import check_program
from shared.operators.program_trust import PURE_ONLY


def run(data: bytes) -> None:
    """Read ``data`` as every reader of graphs does. Nothing is compiled or run."""
    with contextlib.suppress(ProgramError):
        external_initializers(data)
    check_program("onnx", data, PURE_ONLY)  # raises for most graphs; engines see the others only
    pruned = keep_outputs(data, (0,))
    for graph in (data, pruned):
        with contextlib.suppress(ProgramUnsupported):
            read_graph(onnx.load_model_from_string(graph))
