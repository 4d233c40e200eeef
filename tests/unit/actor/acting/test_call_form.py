"""Calls of one meaning in several forms: positional, by keyword, and without arguments equal to their defaults."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actor.acting.module_call import LoadedModule, load_policy
from learner.export.module_export import export_module
from shared.errors import SignatureMismatch


class Scaled(nn.Module):
    def forward(
        self, x: Tensor, bias: Tensor | None = None, scale: float = 2.0, *, mode: str = "add", shift: float = 0.0
    ) -> Tensor:
        result = x * scale + shift
        if bias is not None:
            result = result + bias if mode == "add" else result * bias
        return result


def exported(directory: Path, *args: Any, **kwargs: Any) -> LoadedModule:
    export_module(Scaled(), args, directory, example_kwargs=kwargs, onnx=False)
    return load_policy(directory, sandbox=None)


X, BIAS = torch.randn(3, 4), torch.randn(3, 4)
EXPECTED = Scaled()(X, BIAS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedModule:
    return exported(tmp_path_factory.mktemp("exported") / "m", X, bias=BIAS, scale=2.0)


def test_every_form_of_a_call_is_the_same(run: LoadedModule) -> None:
    for found in (
        run(X, bias=BIAS, scale=2.0),
        run(X, BIAS),
        run(X, BIAS, 2.0),
        run(X, BIAS, 2),
        run(x=X, bias=BIAS),
        run(bias=BIAS, x=X, mode="add", shift=0.0),
        run(X.numpy(), bias=BIAS.numpy()),
    ):
        np.testing.assert_allclose(found, EXPECTED.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((), {"bias": BIAS}, "pass x: forward has no default for it"),
        ((X,), {}, "the arguments.*'bias'.*expected a tensor, found None"),
        ((X, BIAS), {"scale": 3.0}, "expected 2.0, found 3.0"),
        ((X, BIAS), {"mode": "multiply"}, "leave mode out, or export again with it: mode: expected 'add'"),
        ((X, BIAS), {"x": X}, "pass x once"),
        ((X, BIAS), {"sclae": 2.0}, r"pass arguments of forward \(x, bias, scale, mode, shift\): it has none .* sclae"),
        ((X, BIAS, 2.0, "add"), {}, "pass at most 3 positional arguments: found 4"),
    ],
)
def test_other_calls_are_refused_in_one_line(
    run: LoadedModule, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SignatureMismatch, match=reason) as refused:
        run(*args, **kwargs)
    assert len(str(refused.value)) < 300


def test_a_default_that_the_example_leaves_out_may_be_passed(tmp_path: Path) -> None:
    run = exported(tmp_path / "m", X)
    for found in (run(X), run(X, None), run(x=X, bias=None, scale=2.0), run(X, shift=0)):
        torch.testing.assert_close(found, 2 * X)
    with pytest.raises(SignatureMismatch, match="leave bias out, or export again with it"):
        run(X, BIAS)


class AnyNumber(nn.Module):
    def forward(self, first: Tensor, *others: Tensor, **named: Tensor) -> Tensor:
        return first + sum(others) - named["last"]


def test_arguments_without_a_name_keep_their_place(tmp_path: Path) -> None:
    export_module(AnyNumber(), (X, X, X), tmp_path / "m", example_kwargs={"last": BIAS}, how="trace")
    run = load_policy(tmp_path / "m", sandbox=None)
    torch.testing.assert_close(run(X, BIAS, X, last=X), BIAS + X)
    with pytest.raises(SignatureMismatch):
        run(X, BIAS, last=X)


class Doubled(nn.Module):
    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return x * scale


def test_a_scripted_module_has_parameters_too(tmp_path: Path) -> None:
    export_module(torch.jit.script(Doubled()), (X,), tmp_path / "m", onnx=False)
    torch.testing.assert_close(load_policy(tmp_path / "m", sandbox=None)(x=X, scale=2.0), 2 * X)
