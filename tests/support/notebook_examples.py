"""The examples of a notebook about torch.jit, exported one after another by ``main``.

``tests/integration/test_notebook_forms.py`` runs this source in several forms. The marks ``# %%`` begin its cells.
"""

# %%
import json
import shutil
import sys
import warnings
from pathlib import Path

import torch

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from shared.errors import ExportError, one_line

torch.manual_seed(42)


# %%
class TestTraceCell(torch.nn.Module):
    """No decision: a trace is enough."""

    __test__ = False

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x, h):
        new_h = torch.tanh(self.linear(x) + h)
        return new_h, new_h


# %%
class TestDecisionGate(torch.nn.Module):
    """A decision: only a script keeps it."""

    __test__ = False

    def forward(self, x):
        if x.sum() > 0:
            return x
        else:  # noqa: RET505 - as the notebook has it
            return -x


# %%
class TestCell(torch.nn.Module):
    """A cell that holds a gate."""

    __test__ = False

    def __init__(self, dg):
        super().__init__()
        self.dg = dg
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x, h):
        new_h = torch.tanh(self.dg(self.linear(x)) + h)
        return new_h, new_h


# %%
class TestRNNLoop(torch.nn.Module):
    """A loop around a traced cell around a scripted gate."""

    __test__ = False

    def __init__(self):
        super().__init__()
        gate = torch.jit.script(TestDecisionGate())
        self.cell = torch.jit.trace(TestCell(gate), (torch.rand(3, 4), torch.rand(3, 4)))

    def forward(self, xs):
        h, y = torch.zeros(3, 4), torch.zeros(3, 4)
        for i in range(xs.size(0)):
            y, h = self.cell(xs[i], h)
        return y, h


# %%
class ListIndexing(torch.nn.Module):
    """Indexes a list (question 1)."""

    def forward(self, parts):
        return parts[0] * parts[-1]


class MixedInputs(torch.nn.Module):
    """Takes a feature, a mask and a tuple in one list, and returns them in another order (question 2)."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.LSTMCell(4, 8)
        self.logits = torch.nn.Linear(8, 3)

    def forward(self, inputs):
        feature, legal_action, state = inputs
        hidden, cell = self.cell(feature, state)
        return [self.logits(hidden).masked_fill(~legal_action, -1e8), (hidden, cell)]


# %%
def cell_calls():
    """Return two calls of a cell: the example, and another one."""
    return [(torch.rand(3, 4), torch.rand(3, 4)), (-torch.rand(5, 4), torch.rand(5, 4))]


def gate_calls():
    """Return calls that decide differently."""
    return [(torch.rand(3, 4),), (-torch.rand(3, 4),)]


def loop_calls():
    """Return calls of different length."""
    return [(torch.randn(3, 3, 4),), (torch.randn(6, 3, 4),)]


def mixed_calls():
    """Return calls of different batch sizes."""
    state = [(torch.rand(n, 8), torch.rand(n, 8)) for n in (3, 5)]
    return [([torch.rand(n, 4), torch.rand(n, 3) > 0.5, s],) for n, s in zip((3, 5), state, strict=True)]


def list_calls():
    """Return calls with other numbers."""
    return [([torch.rand(3, 4) for _ in range(3)],) for _ in range(2)]


EXAMPLES = {
    "`TestTraceCell()`": (TestTraceCell, cell_calls),
    "`torch.jit.trace(TestTraceCell(), …)`": (lambda: torch.jit.trace(TestTraceCell(), cell_calls()[0]), cell_calls),
    "`torch.compile(TestTraceCell())`": (lambda: torch.compile(TestTraceCell(), backend="eager"), cell_calls),
    "`TestDecisionGate()`": (TestDecisionGate, gate_calls),
    "`torch.jit.script(TestDecisionGate())`": (lambda: torch.jit.script(TestDecisionGate()), gate_calls),
    "`TestCell(gate)`": (lambda: TestCell(TestDecisionGate()), cell_calls),
    "`torch.jit.trace(TestCell(gate), …)`": (
        lambda: torch.jit.trace(TestCell(TestDecisionGate()), cell_calls()[0]),
        cell_calls,
    ),
    "`torch.jit.trace(TestCell(scripted_gate), …)`": (lambda: TestRNNLoop().cell, cell_calls),
    "`TestRNNLoop()`": (TestRNNLoop, loop_calls),
    "`torch.jit.script(TestRNNLoop())`": (lambda: torch.jit.script(TestRNNLoop()), loop_calls),
    "a list that is indexed": (ListIndexing, list_calls),
    "`[feature, legal_action, (h, c)]`": (MixedInputs, mixed_calls),
}
"""Each example by its name in the documentation: it builds the object, and calls of it, the first to export with."""


# %%
def outcome(build, calls, directory):
    """Return ``exported``, or ``refused`` or ``torch`` (which cannot build the object) with the reason."""
    try:
        module = build()
    except Exception as error:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, …
        return "torch", one_line(error)
    examples = calls()
    try:
        export_module(module.eval(), examples[0], directory, onnx=False)
    except ExportError as error:
        return "refused", one_line(error)
    loaded = load_policy(directory, sandbox=None)
    for arguments in examples:
        with torch.no_grad():
            torch.testing.assert_close(loaded(*arguments), module(*arguments), rtol=1e-5, atol=1e-5)
    return "exported", ""


def main():
    """Print the outcome of each example as JSON."""
    warnings.simplefilter("ignore")
    found = {}
    for name, (build, calls) in EXAMPLES.items():
        directory = Path(sys.argv[-1], "version")
        found[name] = outcome(build, calls, directory)
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(found))


# %%
if __name__ == "__main__":
    main()
