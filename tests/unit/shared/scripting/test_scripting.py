import importlib
import linecache
import py_compile
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.errors import ProbeMismatch, ScriptingError
from shared.scripting.scripting import Check, Scripted, refuse_baked_decisions, save_archive, script_or_trace
from tests.support.tiny_policy import TinyPolicy

EXAMPLE = [torch.zeros(3, 4), torch.zeros(3, 3)]
SOURCE = """
from torch import Tensor, nn

class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.layer(inputs[0]) * 1.0]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that is importable as ``brought_along`` during the test."""
    directory = tmp_path / "brought_along"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield directory
    for name in [name for name in sys.modules if name.split(".")[0] == "brought_along"]:
        del sys.modules[name]


def import_policy(package: Path, *, with_source: bool) -> ModuleType:
    """Import the policy, from its compiled file only without source."""
    source = package / "policy.py"
    source.write_text(SOURCE)
    if not with_source:
        py_compile.compile(str(source), cfile=str(package / "policy.pyc"), doraise=True)
        source.unlink()
    importlib.invalidate_caches()
    return importlib.import_module("brought_along.policy")


def equals(module: nn.Module) -> Check:
    """Compare with eager at three batch sizes."""

    def check(program: nn.Module) -> None:
        differences = []
        for batch_size in (1, 3, 64):
            inputs = [torch.randn(batch_size, 4), torch.randn(batch_size, 3)]
            for expected, found in zip(module(inputs), program(inputs), strict=True):
                differences.append(float((expected.double() - found.double()).abs().max()))
        if max(differences) > 1e-5:
            raise ProbeMismatch(f"{max(differences)} from eager")

    return check


def taken(policy: nn.Module) -> tuple[Scripted, list[str | None]]:
    """The program that was taken, and the errors of the methods before it."""
    scripted, failures = script_or_trace(policy, EXAMPLE, equals(policy))
    assert scripted is not None
    return scripted, [failure.error for failure in failures]


def test_scripted_module_shares_its_tensors_with_the_module() -> None:
    policy = TinyPolicy().eval()
    scripted, errors = taken(policy)
    assert scripted.method == "script"
    assert errors == []
    with torch.no_grad():
        policy.head.bias.add_(torch.tensor([5.0, 0, -5]))
    inputs = [torch.randn(3, 4), torch.zeros(3, 3)]
    assert torch.equal(policy(inputs)[1], scripted.module(inputs)[1])


def test_policy_without_source_is_traced_and_torchs_reason_is_kept(package: Path) -> None:
    policy = import_policy(package, with_source=False).Policy().eval()
    for _ in range(3):
        scripted, errors = taken(policy)
        assert scripted.method == "trace"
        assert errors == ["could not get source code"]


class Unscriptable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def helper(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers = {1: 2.0, "two": 3.0}  # a mixed dictionary: torch.jit has no type for it
        return [self.helper(inputs[0]) * numbers[1]]


def test_second_failure_of_a_class_has_the_original_reason() -> None:
    policy = Unscriptable().eval()
    said = [taken(policy)[1][0] for _ in range(3)]
    assert "Dict key" in said[0] or "dict" in said[0].lower()
    assert "redefine" not in "".join(said)
    assert len(set(said)) == 1


def test_failure_after_a_foreign_failure_has_the_original_reason() -> None:
    policy = Unscriptable().eval()
    with pytest.raises(RuntimeError):
        torch.jit.script(policy)
    with pytest.raises(RuntimeError, match="redefine"):  # without this, the test would test nothing
        torch.jit.script(policy)
    assert "redefine" not in taken(policy)[1][0]


def test_source_edited_after_the_import_is_not_scripted(package: Path) -> None:
    policy = import_policy(package, with_source=True).Policy().eval()
    (package / "policy.py").write_text(SOURCE.replace("* 1.0", "* 3.0"))
    linecache.checkcache()
    scripted, errors = taken(policy)
    assert scripted.method == "trace"
    assert "from eager" in errors[0]


class LoopsOverRows(Unscriptable):
    """In a trace, its loop has one round for each row of the example."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers = {1: 2.0, "two": 3.0}
        return [torch.stack([self.helper(row) * numbers[1] for row in inputs[0]])]


def test_baked_batch_size_is_refused_with_the_reason_of_each_method() -> None:
    policy = LoopsOverRows().eval()
    scripted, failures = script_or_trace(policy, EXAMPLE, equals(policy))
    assert scripted is None
    assert [failure.method for failure in failures] == ["script", "trace"]
    assert all(failure.error for failure in failures)


def test_an_archive_holds_no_example_inputs(package: Path) -> None:
    policy = import_policy(package, with_source=False).Policy().eval()
    archive = save_archive(taken(policy)[0].module)
    assert b"traced_inputs" not in archive


ARGS = (torch.linspace(-1, 1, 12).reshape(3, 4), torch.ones(3, 4, dtype=torch.bool), torch.tensor(2))
Forward = Callable[["Net", Tensor, Tensor, Tensor], object]


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            return x
        return -x


class Net(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scripted = torch.jit.script(Positive())
        self.register_buffer("is_on", torch.tensor(True))
        self._forward = forward

    def forward(self, x: Tensor, mask: Tensor, n: Tensor) -> object:
        return self._forward(self, x, mask, n)


def seldom(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return -3 * net.layer(x) if x.min() > 0.5 else net.layer(x)


def clipped(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if x.abs().max().item() > 10 else x)


def masked(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    y = net.layer(x)
    return y if mask.all() else y.masked_fill(~mask, -1e9)


def other_limits(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return x.clamp(max=10 if x.sum() > 5 else 20)


def repeated(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    for _ in range(int(n)):
        x = net.layer(x)
    return x


def after_a_scripted_piece(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    y = net.scripted(x)
    return y * 2 if y.sum() > 0 else y


def written_into(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    zeros = torch.zeros(4)
    zeros[:] = x[0]
    return x * 2 if zeros.sum() > 0 else x


def through_a_list(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if max(x[0].tolist()) > 10 else x)


def through_one_number(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if x.max().tolist() > 10 else x)


def made_of_a_list(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x) + torch.tensor([row[0] for row in x.tolist()]).unsqueeze(1)


def through_numpy(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if x.numpy().max() > 10 else x)


def through_asarray(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if np.asarray(x)[0].max() > 10 else x)


def through_numpys_function(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if np.max(x.detach().numpy()) > 10 else x)


def of_a_mask(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x) if all(mask[0].tolist()) else x


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (through_a_list, "list or an array"),
        (through_one_number, "number"),
        (made_of_a_list, "list or an array"),
        (through_numpy, "list or an array"),
        (through_asarray, "list or an array"),
        (through_numpys_function, "list or an array"),
        (of_a_mask, "list or an array"),
        (seldom, "boolean"),
        (clipped, "number"),
        (masked, "boolean"),
        (other_limits, "boolean"),
        (repeated, "number"),
        (after_a_scripted_piece, "boolean"),
        (written_into, "boolean"),
    ],
)
def test_a_decision_on_data_is_refused_with_its_place(forward: Forward, kind: str) -> None:
    said = rf"Converting a tensor to a Python {kind} .* and {forward.__name__} \(.*{__name__.split('.')[-1]}\.py:\d+\)"
    with pytest.raises(ScriptingError, match=said):
        refuse_baked_decisions(Net(forward), ARGS, {})


def guarded(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    if torch.isnan(x).any():
        raise ValueError("expected numbers")
    return net.layer(x)


def a_distribution(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    drawn_from = torch.distributions.Categorical(logits=net.layer(x))  # checks its arguments
    return drawn_from.log_prob(x.argmax(-1)), drawn_from.entropy()


def remarked(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    if x.sum() > 0:
        "positive"
    return net.layer(x)


def noted(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    np.asarray(x).max()
    return net.layer(x * net.is_on.numpy().max())


ACCEPTED: dict[str, Forward] = {
    "noted": noted,
    "sizes": lambda net, x, mask, n: net.layer(x * 2 if x.shape[0] > 2 and x.size(1) == 4 and len(x) > 1 else x),
    "buffer": lambda net, x, mask, n: x * 2 if net.is_on and torch.ones(3).sum() > 2 else x,
    "scripted piece": lambda net, x, mask, n: net.scripted(net.layer(x)),
    "guarded": guarded,
    "distribution": a_distribution,
    "remarked": remarked,
}


@pytest.mark.parametrize("forward", ACCEPTED.values(), ids=ACCEPTED)
def test_modules_without_decisions_on_data_are_accepted(forward: Forward) -> None:
    refuse_baked_decisions(Net(forward), ARGS, {})


def test_arguments_are_not_changed() -> None:
    def writes(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
        return x.add_(1)

    before = ARGS[0].clone()
    refuse_baked_decisions(Net(writes), ARGS, {})
    assert torch.equal(ARGS[0], before)
