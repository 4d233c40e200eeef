"""Sizes with a name: programs are checked at several of them, and calls outside of their ranges are refused."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from actor.acting import module_call
from learner.export.inputs.dynamic_sizes import NamedDims, named_dims, sizes_to_check, sum_of
from learner.export.module_export import export_module
from shared.errors import ConfigurationError, ExportError, ProgramUnsupported, SignatureMismatch
from shared.policy.manifest import decode_manifest
from shared.policy.tensor_limits import NamedSize

load_policy = partial(module_call.load_policy, sandbox=None)


class Candidates(nn.Module):
    """Scores of a set of candidates, some of which are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.entity, self.own = nn.Linear(5, 8), nn.Linear(3, 8)

    def forward(self, own: Tensor, entities: Tensor, mask: Tensor) -> Tensor:
        query, keys = self.own(own).unsqueeze(1), self.entity(entities)
        scores = (torch.tanh(keys) * query).sum(-1)
        return torch.log_softmax(scores.masked_fill(~mask, -1e4), -1)


class CachedAttention(nn.Module):
    """One step of attention over a cache that grows by one row."""

    def __init__(self, largest: int = 1000) -> None:
        super().__init__()
        self.qkv, self.largest = nn.Linear(4, 12), largest
        self.position = nn.Parameter(torch.randn(largest, 4))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        keys, values = torch.cat([keys, k.unsqueeze(1)], 1), torch.cat([values, v.unsqueeze(1)], 1)
        scores = (keys + self.position[: keys.shape[1]]) @ q.unsqueeze(-1)
        return (torch.softmax(scores, 1) * values).sum(1), keys, values


def candidates(n: int, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.rand(rows, n) < 0.7
    mask[:, 0] = True
    return torch.randn(rows, 3), torch.randn(rows, n, 5), mask


def eager(module: nn.Module, *args: Any) -> Any:
    with torch.no_grad():
        return module.eval()(*args)


DYNAMIC = {"entities": {1: "n"}, "mask": {1: "n"}}


METHODS = ["script", pytest.param("onnx", marks=pytest.mark.slow)]


@pytest.mark.parametrize("method", METHODS)
def test_a_set_of_candidates_has_any_size_in_its_range(method: Any, tmp_path: Path) -> None:
    module = Candidates()
    report = export_module(module, candidates(4), tmp_path / "m", dynamic=DYNAMIC, how=method)
    signature = decode_manifest((tmp_path / "m" / "manifest.json").read_bytes()).module
    assert signature == report.manifest.module
    assert signature.sizes == (NamedSize("n", 1, 1000),)  # type: ignore[union-attr]
    assert [spec.shape for spec in signature.inputs] == [(None, 3), (None, "n", 5), (None, "n")]  # type: ignore[union-attr]
    assert [spec.shape for spec in signature.outputs] == [(None, "n")]  # type: ignore[union-attr]
    assert {*report.methods[0].by_named_size} == {"n=1", "n=2", "n=5", "n=1000"}  # type: ignore[misc]
    run = load_policy(tmp_path / "m")
    assert run.engine.kind == ("onnx" if method == "onnx" else "torchscript")
    for n, rows in ((1, 1), (2, 7), (9, 2), (1000, 1)):
        args = candidates(n, rows)
        torch.testing.assert_close(run(*args), eager(module, *args), atol=1e-5, rtol=1e-5)
    with pytest.raises(SignatureMismatch, match=r"^call it with n from 1 to 1000, .*: found n = 1001$"):
        run(*candidates(1001))
    own, entities, mask = candidates(6)
    with pytest.raises(SignatureMismatch, match=r"args.2: expected bool \(3, 6\), found bool \(3, 5\)"):
        run(own, entities, mask[:, :5])
    if method == "onnx":
        with pytest.raises(ProgramUnsupported, match=r"args.1 has the size n, which varies"):
            load_policy(tmp_path / "m", "llvm")


@pytest.mark.parametrize("method", METHODS)
def test_a_cache_that_grows_is_fed_back(method: Any, tmp_path: Path) -> None:
    module = CachedAttention(largest=20)
    example = (torch.randn(2, 4), torch.zeros(2, 0, 4), torch.zeros(2, 0, 4))
    length = Dim("length", max=19)
    dynamic = {"keys": {1: length}, "values": {1: length}}
    report = export_module(module, example, tmp_path / "m", dynamic=dynamic, how=method)
    signature = report.manifest.module
    assert signature.sizes == (NamedSize("length", 0, 19),)  # type: ignore[union-attr]
    assert [spec.shape for spec in signature.outputs] == [(None, 4), *2 * [(None, "length+1", 4)]]  # type: ignore[union-attr]
    run = load_policy(tmp_path / "m")
    found = expected = (torch.zeros(0), *example[1:])
    for _ in range(20):
        x = torch.randn(2, 4)
        found, expected = run(x, *found[1:]), eager(module, x, *expected[1:])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with pytest.raises(SignatureMismatch, match="call it with length from 0 to 19"):
        run(x, *found[1:])


def test_the_range_of_a_string_ends_where_the_module_does(tmp_path: Path) -> None:
    example = (torch.randn(2, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    dynamic = {"keys": {1: "t"}, "args.2": {-2: "t"}}
    report = export_module(CachedAttention(24), example, tmp_path / "m", onnx=False, dynamic=dynamic)
    assert report.manifest.module.sizes == (NamedSize("t", 1, 23),)  # type: ignore[union-attr]


class TwoSets(nn.Module):
    def forward(self, xs: Tensor, ys: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        return torch.cat([xs, ys], 1) + bias.sum(), xs.shape[1]


@pytest.mark.parametrize("method", ["trace", *METHODS])
def test_sizes_of_several_names(method: Any, tmp_path: Path) -> None:
    """The bias has one number more than there are xs."""
    example = (torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.randn(5))
    dynamic = {"xs": {1: Dim("n", min=2, max=9)}, "ys": {1: "m"}, "bias": {0: "n+1"}}
    report = export_module(TwoSets(), example, tmp_path / "m", dynamic=dynamic, how=method)
    signature = report.manifest.module
    assert signature.sizes == (NamedSize("n", 2, 9), NamedSize("m", 1, 1000))  # type: ignore[union-attr]
    assert [spec.shape for spec in signature.inputs][2] == ("n+1",)  # type: ignore[union-attr]
    assert [spec.shape for spec in signature.outputs] == [(None, "n+m", 2), ()]  # type: ignore[union-attr]
    run = load_policy(tmp_path / "m")
    joined, n = run(torch.ones(1, 7, 2), torch.ones(1, 11, 2), torch.ones(8))
    assert (joined.shape, n) == ((1, 18, 2), 7)
    with pytest.raises(SignatureMismatch, match=r"args.2: expected float32 \(8,\), found float32 \(7,\)"):
        run(torch.ones(1, 7, 2), torch.ones(1, 11, 2), torch.ones(7))


class Truncates(nn.Module):
    """Treats the first four of a set alone, which a trace with four of them cannot show."""

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = sum(x[:, number] for number in range(x.shape[1]))  # type: ignore[assignment]
        return kept


def test_a_size_that_was_baked_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a size was baked in: made with n = 4, the program is wrong for n="):
        export_module(Truncates(), (torch.randn(3, 4, 2),), tmp_path / "m", how="trace", dynamic={"x": {1: "n"}})


@pytest.mark.slow
def test_native_code_takes_every_size(tmp_path: Path) -> None:
    module = Candidates()
    dynamic = {"entities": {1: Dim("n", min=1, max=50)}, "mask": {1: Dim("n", min=1, max=50)}}
    assert export_module(module, candidates(4), tmp_path / "m", how="aot", dynamic=dynamic).taken == ("aot",)
    run = load_policy(tmp_path / "m", trust_native=True)
    for n in (1, 2, 9, 50):
        args = candidates(n)
        torch.testing.assert_close(run(*args), eager(module, *args), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dynamic", "reason"),
    [
        ({"entites": {1: "n"}}, "name one of own, entities, mask in dynamic: no tensor .* 'entites'"),
        ({"entities": "n"}, "name dimensions in dynamic as .* expected a dict of dicts, found {'entities': 'n'}"),
        (["entities"], "name dimensions in dynamic as .* expected a dict of dicts"),
        ({"entities": {3: "n"}}, "number the dimensions of entities from 0 to 2 in dynamic: found 3"),
        ({"entities": {1: 7}}, "name a size in dynamic by a string or a torch.export.Dim: .* '7'"),
        ({"entities": {1: "2*n"}}, "name a size in dynamic by a string or a torch.export.Dim: .* '2\\*n'"),
        ({"entities": {1: "n"}, "own": {1: "n"}}, "pass an example in which n is one size, .*: found 3 and 4"),
        ({"entities": {1: "n"}, "mask": {1: "n+1"}}, "pass an example in which n\\+1 is 5: found 4 in dimension 1"),
        ({"mask": {1: "n+1"}}, "name another input's dimension n in dynamic: only n\\+1 has that name"),
        ({"entities": {1: "batch"}}, "choose another name than batch"),
        ({"entities": {1: Dim("n", min=5)}}, "pass an example with n from 5 to .*: found n = 4"),
        ({"entities": {1: Dim("n", max=5)}, "mask": {1: Dim("n", max=6)}}, "give n one range in dynamic"),
    ],
)
def test_wrong_names_are_refused_in_one_line(dynamic: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^{reason}") as refused:
        export_module(Candidates(), candidates(4), tmp_path / "m", dynamic=dynamic)
    assert len(str(refused.value)) < 300


def test_a_batch_dimension_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^leave dimension 0 of tensor 1 out of dynamic"):
        export_module(Candidates(), candidates(4), tmp_path / "m", batch_dims=(0, 0, 0), dynamic={"entities": {0: "n"}})


def test_a_range_beyond_the_module_is_refused(tmp_path: Path) -> None:
    example = (torch.randn(2, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    for size, reason in ((Dim("t", min=1, max=30), "fails for t = 30"), ("unequal", "fails for unequal = 2")):
        dynamic: Any = {"keys": {1: size}} if size == "unequal" else {"keys": {1: size}, "values": {1: size}}
        with pytest.raises(ExportError, match=f"^give a range that the module accepts.*{reason}") as refused:
            export_module(CachedAttention(20), example, tmp_path / "m", dynamic=dynamic)
        assert len(str(refused.value)) < 300


def test_sizes_to_check_tell_names_apart() -> None:
    ranges = (NamedSize("n", 0, 50), NamedSize("m", 2, 6))
    found = [sizes for sizes, _ in sizes_to_check(ranges, {"n": 4, "m": 4})]
    assert found == [
        {"n": 0, "m": 2},
        {"n": 2, "m": 2},
        {"n": 5, "m": 6},
        {"n": 50, "m": 6},
        {"n": 50, "m": 4},
        {"n": 4, "m": 6},
    ]


def test_a_size_is_a_sum_of_names_or_unknown() -> None:
    sizes = [{"n": 3, "m": 3}, {"n": 4, "m": 9}]
    assert sum_of([3, 9], sizes) == "m"
    assert sum_of([1, 2], sizes) == "n-2"
    assert sum_of([7, 14], sizes) == "n+m+1"
    assert sum_of([6, 8], sizes) is None


def test_repeated_candidates_are_no_ties() -> None:
    mask, floats = torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[0.3, -0.2, 1.5]])
    named = NamedDims(({1: "n"}, {1: "n"}), {"n": 3}, {"n": (None, None)})
    longer, other = named.resized([mask, floats], {"n": 7})
    assert longer.tolist() == [[0.0, -torch.inf, 1.0] * 2 + [0.0]]
    assert other[0, :3].tolist() == floats[0].tolist()
    assert len({*other[0].tolist()}) == 7
    assert named_dims(None, [], [mask]).resized([mask], {})[0].equal(mask)
