"""Export of any module: its programs answer as the module does, and a refusal names its reason."""

import dataclasses
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from actor.acting import module_call
from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.export.module_export import export_module
from learner.publishing.policy_publisher import publish_policy
from shared.engines.torch_arrays import array_of
from shared.errors import ConfigurationError, ExportError, NotTrusted, ProgramError, SignatureMismatch
from shared.policy.manifest import decode_manifest
from shared.store.policy_store import LocalPolicyStore

# The programs are made here; test_module_call.py holds the tests of the sandbox.
load_policy = partial(module_call.load_policy, sandbox=None)


class Gate(nn.Module):
    """The notebook's decision."""

    def forward(self, x):
        if x.sum() > 0:
            return x
        else:  # noqa: RET505
            return -x


class Cell(nn.Module):
    """The notebook's cell around the decision."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, h):
        new_h = torch.tanh(self.gate(self.linear(x)) + h)
        return new_h, new_h


class Loop(nn.Module):
    """One step for each row."""

    def forward(self, x):
        total = torch.zeros(x.shape[1])
        for i in range(x.shape[0]):
            total = total * 0.5 + x[i]
        return total


class Unscriptable(nn.Module):
    """No decision, and code that TorchScript does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, *tensors):
        return torch.relu(self.linear(sum(t for t in tensors)))


class LoopOverUnscriptable(nn.Module):
    """Has to be scripted for its loop, and its piece traced."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Unscriptable()

    def forward(self, x):
        h = torch.zeros_like(x[:1])
        for i in range(x.shape[0]):
            h = self.step(x[i : i + 1]) + 0.5 * h
        return h


class UnscriptableAroundGate(nn.Module):
    """Has to be traced for its own code, and its decision scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.linear = nn.Linear(4, 2)

    def forward(self, *tensors):
        return self.linear(self.gate(sum(t for t in tensors)))


class Recurrent(nn.Module):
    """The notebook's network: [feature, legal actions, (hidden, cell)] in, and out in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(6, 8)
        self.policy = nn.Linear(8, 3)
        self.value = nn.Linear(8, 1)

    def forward(self, inputs):
        feature, legal_action, (hidden, cell) = inputs
        hidden, cell = self.lstm(feature, (hidden, cell))
        logits = self.policy(hidden).masked_fill(~legal_action, -1e9)
        return [logits, self.value(hidden).squeeze(-1), (hidden, cell)]


class Pair(NamedTuple):
    first: Tensor
    rows: int


@dataclasses.dataclass
class Options:
    x: Tensor
    scale: float


class Everything(nn.Module):
    """Every kind of nesting, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, obs, options, state=None, *, temperature=1.0):
        y = self.linear(obs["a"]) / temperature + options.x * options.scale
        ragged = [y, [y + 1, (y, None)], {"deep": {"er": [y * 2]}}]
        return {"pair": Pair(y, obs["a"].shape[0]), "ragged": ragged, "state": state, "text": "k", "constant": 1.5}


def example() -> tuple[Any, ...]:
    return ({"a": torch.randn(3, 4)}, Options(torch.randn(3, 2), 0.5), [torch.randn(3)])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        alike = isinstance(b, list if isinstance(a, list) else tuple)
        return alike and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return module.eval()(*args, **kwargs)


@pytest.mark.parametrize("engine", ["torchscript", "onnx"])
def test_nested_state_goes_in_and_comes_out(tmp_path: Path, engine: Any) -> None:
    def inputs(n: int) -> list[Any]:
        return [torch.randn(n, 6), torch.ones(n, 3, dtype=torch.bool), (torch.randn(n, 8), torch.randn(n, 8))]

    module = Recurrent()
    report = export_module(module, (inputs(2),), tmp_path / "m")
    assert report.taken == ("trace", "onnx")
    policy = load_policy(tmp_path / "m", engine, sandbox=None)
    assert policy.engine.kind == engine
    for n in (1, 2, 7):
        args = inputs(n)
        assert same(policy(args), eager(module, args))


def test_every_kind_of_nesting_in_and_out(tmp_path: Path) -> None:
    module = Everything()
    report = export_module(module, example(), tmp_path / "m", example_kwargs={"temperature": 2.0}, onnx=False)
    policy = load_policy(tmp_path / "m", sandbox=None)
    args = ({"a": torch.randn(5, 4)}, Options(torch.randn(5, 2), 0.5), [torch.randn(5)])
    found, expected = policy(*args, temperature=2.0), eager(module, *args, temperature=2.0)
    assert same(found, expected)
    assert found["pair"].rows == 5
    assert found["pair"]._fields == Pair._fields
    assert decode_manifest((tmp_path / "m" / "manifest.json").read_bytes()) == report.manifest
    with pytest.raises(SignatureMismatch, match=r"kwargs.*temperature.*expected 2.0, found 3.0"):
        policy(*args, temperature=3.0)


def test_records_have_their_own_class_if_it_is_trusted(tmp_path: Path) -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    module = nn.LSTM(4, 3)
    export_module(module, (packed,), tmp_path / "m", onnx=False, dynamic_batch=False)
    expected = eager(module, packed)[0]
    for trusted, cls in (((), None), (("torch",), nn.utils.rnn.PackedSequence), (("torch.nn.utils.r",), None)):
        found = load_policy(tmp_path / "m", trusted_modules=trusted, sandbox=None)(packed)[0]
        assert (type(found) is nn.utils.rnn.PackedSequence) is (cls is not None)
        assert type(found).__name__ == "PackedSequence"
        assert same(found.data, expected.data)


def test_numpy_arguments_give_numpy_results(tmp_path: Path) -> None:
    module = nn.Linear(4, 2)
    export_module(module, (torch.randn(3, 4),), tmp_path / "m")
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    for choice, kind in (("auto", "llvm"), ("onnx", "onnx")):
        policy = load_policy(tmp_path / "m", choice, sandbox=None)
        assert policy.engine.kind == kind
        found = policy(x)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, eager(module, torch.from_numpy(x)).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape", "method"),
    [
        (Loop(), (3, 4), "script"),
        (LoopOverUnscriptable(), (3, 4), "script+trace"),
        (UnscriptableAroundGate(), (3, 4), "trace+script"),
        (Unscriptable(), (3, 4), "trace"),
    ],
    ids=["loop", "loop over a piece without source", "decision inside", "plain"],
)
def test_each_method_is_taken_where_those_before_it_fail(
    module: nn.Module, shape: tuple[int, ...], method: str, tmp_path: Path
) -> None:
    report = export_module(module, (torch.randn(shape),), tmp_path / "m", onnx=False)
    assert report.taken == (method,), str(report)
    assert [r.method for r in report.methods if not r.taken] == [r.method for r in report.methods[:-1]]
    assert set(report.methods[-1].by_batch_size) == {"1", "3", "16", "33", "129", "1000"}
    policy = load_policy(tmp_path / "m", sandbox=None)
    for n in (2, 9):
        for sign in (1, -1):
            x = sign * torch.rand(n, *shape[1:])
            assert same(policy(x), eager(module, x))


def test_baked_in_loops_and_branches_are_refused_with_that_reason(tmp_path: Path) -> None:
    for module, reason in (
        (Loop(), "trace: a loop over the batch was baked in: traced at 3 rows"),
        (Gate(), "trace: a branch or a value was baked in: Converting a tensor to a Python boolean .* forward"),
    ):
        with pytest.raises(ExportError, match=reason):
            export_module(module, (torch.randn(3, 4),), tmp_path / "m", how="trace")
        assert not (tmp_path / "m").exists()


class MasksWhereSomeAreIllegal(Recurrent):
    """The notebook's network with a mask that a trace of an example without illegal actions would lose."""

    def forward(self, inputs):
        feature, legal_action, (hidden, cell) = inputs
        hidden, cell = self.lstm(feature, (hidden, cell))
        logits = self.policy(hidden)
        if not legal_action.all():
            logits = logits.masked_fill(~legal_action, -1e9)
        return [logits, self.value(hidden).squeeze(-1), (hidden, cell)]


class MixedKeys(nn.Module):
    """A dictionary for which TorchScript has no type, around a decision."""

    def forward(self, x):
        scales = {1: 2.0, "two": 3.0}
        return x * scales[1] if x.sum() > 0 else x * scales["two"]


def test_error_begins_with_what_to_change_and_no_decision_is_baked_in(tmp_path: Path) -> None:
    state = (torch.randn(3, 8), torch.randn(3, 8))
    for module, args, advice in (
        (MasksWhereSomeAreIllegal(), ([torch.randn(3, 6), torch.ones(3, 3).bool(), state],), "annotate the arguments"),
        (Repeats(), (torch.randn(3, 4), torch.tensor(2)), "name the arguments of forward one by one"),
        (MixedKeys(), (torch.randn(3, 4),), "write forward so that script can read it"),
    ):
        baked = " trace: a branch or a value was baked in: .* trace to be incorrect"
        with pytest.raises(ExportError, match=f"What to change: {advice}.*;{baked}.*; aot was not tried"):
            export_module(module, args, tmp_path / "m", onnx=False)


class Repeats(nn.Module):
    """A number that came in as a tensor, as often as a loop turns."""

    def forward(self, *inputs):
        x, times = inputs
        for _ in range(int(times)):
            x = torch.sin(x)
        return x


@pytest.mark.parametrize(
    "example",
    [torch.linspace(-1, 1, 12).reshape(3, 4), torch.zeros(3, 4).bool(), torch.tensor(2)],
    ids=["floats", "a mask", "a number"],
)
def test_inputs_are_varied(example: Tensor, tmp_path: Path) -> None:
    class Doubles(nn.Module):
        def forward(self, x):
            return x + x

    report = export_module(Doubles(), (example,), tmp_path / "m", onnx=False)
    assert report.methods[0].input_sets == 3


def test_module_that_accepts_only_its_example_is_reported(tmp_path: Path) -> None:
    class TakesOne(nn.Module):
        def forward(self, x):
            if not bool((x == 1).all()):
                raise ValueError("expected ones")
            return x * 2

    report = export_module(TakesOne(), (torch.ones(3, 4),), tmp_path / "m", how="trace")
    assert report.methods[0].input_sets == 1
    assert "compared for the example's values alone" in str(report)


def test_method_named_by_how_is_used(tmp_path: Path) -> None:
    for how in ("script", "trace", "onnx"):
        assert export_module(nn.Linear(4, 2), (torch.randn(3, 4),), tmp_path / how, how=how).taken == (how,)
    with pytest.raises(ConfigurationError, match="expected one of script"):
        export_module(nn.Linear(4, 2), (torch.randn(3, 4),), tmp_path / "m", how="magic")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'onyx'"):
        export_module(nn.Linear(4, 2), (torch.randn(3, 4),), tmp_path / "m", onyx=True)  # type: ignore[call-arg]


@pytest.mark.slow
def test_aot_makes_a_package_of_native_code(tmp_path: Path) -> None:
    inputs = [torch.randn(3, 6), torch.ones(3, 3, dtype=torch.bool), (torch.randn(3, 8), torch.randn(3, 8))]
    module = Recurrent()
    assert export_module(module, (inputs,), tmp_path / "m", how="aot").taken == ("aot",)
    with pytest.raises(NotTrusted, match="--trust-native"):
        load_policy(tmp_path / "m", "aot", sandbox=None)
    assert same(load_policy(tmp_path / "m", trust_native=True, sandbox=None)(inputs), eager(module, inputs))


def test_random_results_are_refused(tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    with pytest.raises(ExportError, match="answers the same inputs differently"):
        export_module(Random(), (torch.randn(3, 4),), tmp_path / "m")


def test_a_batch_size_that_the_module_itself_fixes(tmp_path: Path) -> None:
    module, x = Cell(), (torch.randn(3, 4), torch.randn(3, 4))

    class Fixed(nn.Bilinear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.bilinear(x, torch.ones(3, 4), self.weight, self.bias)

    with pytest.raises(ExportError, match=r"batch_dims, or .* dynamic_batch=False: .* takes no other batch size"):
        export_module(Fixed(4, 4, 2), (x[0],), tmp_path / "m")
    report = export_module(Fixed(4, 4, 2), (x[0],), tmp_path / "m", dynamic_batch=False, onnx=False)
    with pytest.raises(SignatureMismatch, match=r"expected float32 \(3, 4\), found float32 \(5, 4\)"):
        load_policy(tmp_path / "m", sandbox=None)(torch.randn(5, 4))
    assert report.taken
    assert export_module(module, x, tmp_path / "cell", onnx=False).taken == ("script",)


def test_a_state_of_the_wrong_size_never_reaches_the_program(tmp_path: Path) -> None:
    module = nn.LSTM(4, 5)
    export_module(module, (torch.randn(2, 3, 4), (torch.randn(1, 3, 5), torch.randn(1, 3, 5))), tmp_path / "m")
    for engine in ("torchscript", "onnx"):
        policy = load_policy(tmp_path / "m", engine, sandbox=None)  # type: ignore[arg-type]
        x, state = torch.randn(2, 7, 4), (torch.randn(1, 7, 5), torch.randn(1, 7, 5))
        assert same(policy(x, state), eager(module, x, state))
        with pytest.raises(SignatureMismatch, match=r"args.1.1: expected float32 \(1, 7, 5\), found .* \(1, 6, 5\)"):
            policy(x, (state[0], torch.randn(1, 6, 5)))


def test_directory_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="never changed"):
        export_module(nn.Linear(4, 2), (torch.randn(3, 4),), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_engines_that_a_version_lacks_are_refused(tmp_path: Path) -> None:
    export_module(nn.Linear(4, 2), (torch.randn(3, 4),), tmp_path / "m", how="trace")
    with pytest.raises(ProgramError, match="has no onnx program"):
        load_policy(tmp_path / "m", "onnx", sandbox=None)
    with pytest.raises((NotTrusted, ProgramError)):
        load_policy(tmp_path / "m", "aot", sandbox=None)


def test_agent_refuses_a_module_that_is_no_policy(tmp_path: Path) -> None:
    export_module(nn.Linear(4, 2), (torch.randn(3, 4),), tmp_path / "v000000", onnx=False)
    agent = Agent(LocalPolicyStore(tmp_path), AgentOptions(num_envs=1, synchronous=True, deadline_s=0.0))
    with pytest.raises(Exception, match="use load_policy: this version is a module"):
        agent.reset()
    agent.close()


def test_inputs_of_different_sizes_need_batch_dims(tmp_path: Path) -> None:
    class Rowwise(nn.Module):
        def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
            return rows + columns.reshape(2, -1).T

    example = (torch.randn(3, 2), torch.randn(6))
    with pytest.raises(ExportError, match=r"^name each .* batch_dims.* begin with different sizes \[3, 6\]"):
        export_module(Rowwise(), example, tmp_path / "m")


def _quantized(module: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library announces its end
        quantized: nn.Module = torch.ao.quantization.quantize_dynamic(module, {nn.Linear, nn.LSTM}, dtype=dtype)
        return quantized


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16], ids=str)
def test_quantized_weights_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    module = _quantized(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), dtype)
    reason = r"export the float module.*\b1 \(Linear\) packs its weights"
    with pytest.raises(ExportError, match=reason) as refused:
        export_module(module, (torch.randn(3, 4),), tmp_path / "m")
    assert len(str(refused.value)) < 300
    with pytest.raises(ExportError, match=r"export the float module.*module\.1 \(Linear\) packs its weights"):
        publish_policy(module, spaces.Box(-1, 1, (4,)), spaces.Discrete(3), tmp_path / "store")


def test_a_quantized_recurrent_layer_is_refused_by_name(tmp_path: Path) -> None:
    module = _quantized(nn.ModuleDict({"rnn": nn.LSTM(4, 3)}))["rnn"]  # type: ignore[index]
    with pytest.raises(ExportError, match="export the float module"):
        export_module(module, (torch.randn(5, 3, 4),), tmp_path / "m")


class MaskedSoftmax(nn.Module):
    """Has an additive mask, as a buffer and as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("future", torch.triu(torch.full((4, 4), -torch.inf), 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax((self.linear(x) + mask).unsqueeze(1) + self.future, -1)


def test_infinities_in_arguments_and_buffers_are_exported(tmp_path: Path) -> None:
    module = MaskedSoftmax().eval()
    mask = torch.zeros(3, 4)
    mask[:, 2] = -torch.inf
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    report = export_module(module, (x, mask), tmp_path / "module")
    assert {"script", "onnx"} <= {*report.taken}
    for engine in ("torchscript", "onnx"):
        load = load_policy(tmp_path / "module", engine=engine, sandbox=None)
        torch.testing.assert_close(load(-x, mask), module(-x, mask))


class Half(nn.Module):
    """Weights and numbers of 16 bits, and a result of 32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layers(x)
        return logits, torch.softmax(logits.float(), -1)


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (torch.bfloat16, "script"),
        (torch.float16, "script"),
        pytest.param(torch.float16, "onnx", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, "aot", marks=pytest.mark.slow),
    ],
)
def test_weights_and_numbers_of_16_bits(dtype: torch.dtype, how: Any, tmp_path: Path) -> None:
    module, x = Half(dtype), torch.randn(5, 6).to(dtype)
    report = export_module(module, (x,), tmp_path / "m", tolerance=1e-3, how=how)
    assert [spec.dtype for spec in report.manifest.module.outputs] == [str(dtype)[6:], "float32"]  # type: ignore[union-attr]
    run = load_policy(tmp_path / "m", trust_native=True)
    logits, chances = run(x)
    assert (logits.dtype, chances.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(logits, eager(module, x)[0], atol=0.03, rtol=0.03)
    arrays = run(array_of(x))
    assert [array.dtype.name for array in arrays] == [str(dtype)[6:], "float32"]


@pytest.mark.parametrize("how", ["script", pytest.param("onnx", marks=pytest.mark.slow)])
def test_weights_of_16_bits_of_which_a_module_makes_floats(how: Any, tmp_path: Path) -> None:
    class Widened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6, dtype=torch.bfloat16))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.float().T

    module, x = Widened(), torch.randn(5, 6)
    export_module(module, (x,), tmp_path / "m", how=how)
    torch.testing.assert_close(load_policy(tmp_path / "m")(x), eager(module, x))


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (torch.complex64, "script"),
        (torch.complex128, "script"),
        pytest.param(torch.complex64, "aot", marks=pytest.mark.slow),
    ],
)
def test_complex_weights(dtype: torch.dtype, how: Any, tmp_path: Path) -> None:
    class Rotates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(x.to(self.weight.dtype) * self.weight[0]).float().sum(-1)

    module, x = Rotates(), torch.randn(5, 4)
    export_module(module, (x,), tmp_path / "m", how=how)
    torch.testing.assert_close(load_policy(tmp_path / "m", trust_native=True)(x), eager(module, x))
    for change in ("input", "result"):

        class Complex(Rotates):
            def forward(self, x: Tensor) -> Tensor:
                return x * self.weight[0]

        with pytest.raises(ExportError, match=r"^(pass|return) torch.view_as_real") as refused:
            export_module(Complex(), (x.to(dtype) if change == "input" else x,), tmp_path / "other")
        assert len(str(refused.value)) < 300


def test_a_tolerance_is_used_recorded_and_capped(tmp_path: Path) -> None:
    x = torch.randn(5, 4)
    for tolerance in (0.0, 1e-6, 1e-3):
        report = export_module(nn.Linear(4, 2), (x,), tmp_path / f"{tolerance}", how="script", tolerance=tolerance)
        assert (report.manifest.probe.atol, report.manifest.probe.rtol) == (tolerance, tolerance)
    for tolerance in (1.1e-3, -1.0, float("nan"), "1e-4"):
        with pytest.raises(ConfigurationError, match=r"^pass a tolerance from 0 to 0.001"):
            export_module(nn.Linear(4, 2), (x,), tmp_path / "m", tolerance=tolerance)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_program_that_differs_by_more_than_the_tolerance_is_refused(tmp_path: Path) -> None:
    module, x = nn.Sequential(nn.Linear(64, 64), nn.GELU()), torch.randn(3, 64)
    with pytest.raises(ExportError, match="differ by more than 0 "):
        export_module(module, (x,), tmp_path / "n", how="onnx", tolerance=0)
