"""``python scripts/conformance/export_coverage.py``: share of torch.nn that exports and equals eager.

``--programs`` names the programs to try: of the first that works, the loaded module is compared.
"""

import argparse
import collections
import re
import shlex
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from shared.errors import HotswapError, one_line
from shared.policy.manifest import ProgramKind
from shared.policy.nested_values import describe

B = 4  # batch size of every example


@dataclass(frozen=True)
class NnCase:
    """A module, made by ``make()``, and its arguments. ``dynamic_batch`` is false when the batch size cannot vary."""

    name: str
    make: Callable[[], nn.Module]
    args: tuple[Any, ...]
    dynamic_batch: bool = True


_WITHOUT_FORWARD = "Container Module ModuleDict ModuleList ParameterDict ParameterList RNNBase RNNCellBase"
NOT_CALLED_WITH_TENSORS = dict.fromkeys(shlex.split(_WITHOUT_FORWARD), "has no forward")
NOT_CALLED_WITH_TENSORS["DataParallel"] = "spreads another module over GPUs"
"""Classes without a case, and the reason."""

_ELEMENTWISE = shlex.split("""
    CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU
    ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Dropout AlphaDropout
    FeatureAlphaDropout
""")


def nn_classes() -> dict[str, type[nn.Module]]:
    """Return the public module classes of ``torch.nn`` by name."""
    found = {name: getattr(nn, name) for name in dir(nn)}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, nn.Module)}


def all_cases() -> list[NnCase]:
    """Return all cases; the inputs are drawn with a fixed seed."""
    torch.manual_seed(0)
    first = (_elementwise, _convolutions, _pooling, _normalisation, _padding_and_shape)
    cases = [case for make in (*first, _recurrent, _attention, _losses, _others) for case in make()]
    torch.manual_seed(0)
    return cases


def _case(name: str, *args: Any, options: tuple[Any, ...] = (), dynamic: bool = True, **settings: Any) -> NnCase:
    cls = nn_classes()[name]
    label = name + (f"({', '.join(f'{key}={value}' for key, value in settings.items())})" if settings else "")
    return NnCase(label, lambda: cls(*options, **settings), args, dynamic)


def _x(*shape: int) -> Tensor:
    return torch.randn(shape)


def _unit(*shape: int) -> Tensor:
    return torch.rand(shape) * 0.9 + 0.05


def _elementwise() -> Iterator[NnCase]:
    for name in _ELEMENTWISE:
        yield _case(name, _x(B, 5))
    yield _case("GLU", _x(B, 6))
    yield _case("Threshold", _x(B, 5), options=(0.1, 20.0))
    for name in ("Softmax", "LogSoftmax", "Softmin"):
        yield _case(name, _x(B, 5), dim=-1)
    yield _case("Softmax2d", _x(B, 3, 4, 4))
    yield _case("ReLU", _x(B, 5), inplace=True)
    for n, shape in enumerate(((5,), (4, 4), (2, 4, 4)), 1):
        yield _case(f"Dropout{n}d", _x(B, 3, *shape))
    yield _case("GELU", _x(B, 5), approximate="tanh")


def _convolutions() -> Iterator[NnCase]:
    images = {1: _x(B, 3, 8), 2: _x(B, 3, 8, 8), 3: _x(B, 3, 4, 6, 6)}
    for n, image in images.items():
        for name in (f"Conv{n}d", f"ConvTranspose{n}d"):
            yield _case(name, image, options=(3, 4, 3))
            yield _case(name, image, options=(3, 6, 3), stride=2, padding=1, groups=3)
        for name in (f"LazyConv{n}d", f"LazyConvTranspose{n}d"):
            yield _case(name, image, options=(4, 3))
    yield _case("Conv2d", images[2], options=(3, 4, 3), padding="same", padding_mode="reflect")
    yield _case("Unfold", images[2], options=(3,))
    yield _case("Fold", _x(B, 12, 9), options=((4, 4), 2))


def _pooling() -> Iterator[NnCase]:
    images = {1: _x(B, 3, 8), 2: _x(B, 3, 8, 8), 3: _x(B, 3, 4, 8, 8)}
    for n, image in images.items():
        for name in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool"):
            yield _case(f"{name}{n}d", image, options=(2,))
        yield _case(f"MaxPool{n}d", image, options=(2,), return_indices=True)
        yield _case(f"LPPool{n}d", image.abs(), options=(2, 2))
        pooled, indices = nn_classes()[f"MaxPool{n}d"](2, return_indices=True)(image)
        yield _case(f"MaxUnpool{n}d", pooled, indices, options=(2,))
    for n in (2, 3):
        samples = torch.rand(B, 3, n)
        # Without samples it draws numbers in evaluation mode, too, and no actor would accept it.
        fixed = _case(f"FractionalMaxPool{n}d", images[n], options=(2,), output_size=2, _random_samples=samples)
        yield NnCase(f"FractionalMaxPool{n}d(_random_samples=…)", fixed.make, fixed.args, dynamic_batch=False)


def _normalisation() -> Iterator[NnCase]:
    images = {1: _x(B, 4, 6), 2: _x(B, 4, 5, 5), 3: _x(B, 4, 3, 4, 4)}
    for n, image in images.items():
        yield _case(f"BatchNorm{n}d", image, options=(4,))
        yield _case(f"InstanceNorm{n}d", image, options=(4,), affine=True)
        yield _case(f"LazyBatchNorm{n}d", image)
        yield _case(f"LazyInstanceNorm{n}d", image)
    yield _case("BatchNorm1d", _x(B, 4), options=(4,), track_running_stats=False)
    yield _case("SyncBatchNorm", images[2], options=(4,))
    for name in ("LayerNorm", "RMSNorm"):
        yield _case(name, _x(B, 6), options=(6,))
    yield _case("GroupNorm", images[2], options=(2, 4))
    for name in ("LocalResponseNorm", "CrossMapLRN2d"):
        yield _case(name, images[2], options=(2,))


def _padding_and_shape() -> Iterator[NnCase]:
    images = {1: _x(B, 3, 6), 2: _x(B, 3, 6, 6), 3: _x(B, 3, 4, 4, 4)}
    for n, image in images.items():
        for name in ("ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad"):
            yield _case(f"{name}{n}d", image, options=(1,))
        yield _case(f"ConstantPad{n}d", image, options=(1, 0.5))
    yield _case("Flatten", images[2])
    yield _case("Unflatten", _x(B, 6), options=(1, (2, 3)))
    for name in ("PixelShuffle", "ChannelShuffle"):
        yield _case(name, _x(B, 4, 3, 3), options=(2,))
    yield _case("PixelUnshuffle", _x(B, 1, 4, 4), options=(2,))
    for name in ("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"):
        yield _case(name, images[2], scale_factor=2)
    yield _case("Upsample", images[2], size=(9, 9), mode="bilinear")


def _recurrent() -> Iterator[NnCase]:
    for name in ("RNN", "GRU", "LSTM"):
        state = (_x(1, B, 6), _x(1, B, 6)) if name == "LSTM" else _x(1, B, 6)
        yield _case(name, _x(B, 3, 5), state, options=(5, 6), batch_first=True)
        yield _case(name, _x(3, B, 5), state, options=(5, 6))
        yield _case(name, _x(B, 3, 5), options=(5, 6), batch_first=True, num_layers=2, bidirectional=True)
        yield _case(f"{name}Cell", _x(B, 5), (_x(B, 6), _x(B, 6)) if name == "LSTM" else _x(B, 6), options=(5, 6))
    yield _case("LSTM", _x(B, 3, 5), options=(5, 6), batch_first=True, proj_size=3)
    packed = nn.utils.rnn.pack_padded_sequence(_x(B, 3, 5), torch.tensor([3, 3, 2, 1]), batch_first=True)
    yield NnCase("LSTM of a PackedSequence", lambda: nn.LSTM(5, 6, batch_first=True), (packed,), dynamic_batch=False)


def _attention() -> Iterator[NnCase]:
    x, memory = _x(B, 5, 8), _x(B, 3, 8)
    yield _case("MultiheadAttention", x, x.clone(), x.clone(), options=(8, 2), batch_first=True)
    yield _case("MultiheadAttention", _x(5, B, 8), _x(3, B, 8), _x(3, B, 8), options=(8, 2))
    yield _case("TransformerEncoderLayer", x, options=(8, 2, 16), batch_first=True)
    yield _case("TransformerDecoderLayer", x, memory, options=(8, 2, 16), batch_first=True)
    yield _case("TransformerEncoder", x, options=(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2))
    yield _case("TransformerDecoder", x, memory, options=(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2))
    yield _case("Transformer", x, memory, options=(8, 2, 1, 1, 16), batch_first=True)


def _losses() -> Iterator[NnCase]:
    x, y, sign = _x(B, 5), _x(B, 5), torch.tensor([1.0, -1.0, 1.0, -1.0])
    classes = torch.tensor([0, 3, 2, 1])
    several = torch.tensor([[0, 2, -1, 0, 0], [1, -1, 0, 0, 0], [4, 3, -1, 0, 0], [2, -1, 0, 0, 0]])
    for name in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"):
        yield _case(name, x, y)
    yield _case("MSELoss", x, y, reduction="none")
    yield _case("BCELoss", _unit(B, 5), _unit(B, 5))
    yield _case("BCEWithLogitsLoss", x, _unit(B, 5))
    yield _case("CrossEntropyLoss", x, classes)
    yield _case("CrossEntropyLoss", x, classes, label_smoothing=0.1, reduction="none")
    yield _case("NLLLoss", x.log_softmax(-1), classes)
    yield _case("NLLLoss2d", _x(B, 5, 2, 2).log_softmax(1), torch.randint(0, 5, (B, 2, 2)))
    yield _case("KLDivLoss", x.log_softmax(-1), y.softmax(-1), reduction="batchmean")
    yield _case("PoissonNLLLoss", x, _unit(B, 5))
    yield _case("GaussianNLLLoss", x, y, _unit(B, 5))
    for name in ("SoftMarginLoss", "HingeEmbeddingLoss"):
        yield _case(name, x, torch.sign(y))
    yield _case("CosineEmbeddingLoss", x, y, sign)
    yield _case("MarginRankingLoss", x[:, 0], y[:, 0], sign)
    for name in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
        yield _case(name, x, y, _x(B, 5))
    yield _case("MultiLabelMarginLoss", x, several)
    yield _case("MultiLabelSoftMarginLoss", x, torch.randint(0, 2, (B, 5)).float())
    yield _case("MultiMarginLoss", x, classes)
    lengths = (torch.full((B,), 6), torch.full((B,), 2))
    yield _case("CTCLoss", _x(6, B, 5).log_softmax(-1), torch.randint(1, 5, (B, 3)), *lengths)


def _others() -> Iterator[NnCase]:
    indices = torch.randint(0, 7, (B, 3))
    yield _case("Linear", _x(B, 5), options=(5, 3))
    if hasattr(nn, "LinearCrossEntropyLoss"):  # new in torch 2.13
        yield _case("LinearCrossEntropyLoss", _x(B, 5), torch.tensor([0, 3, 2, 1]), options=(5, 4))
    yield _case("LazyLinear", _x(B, 5), options=(3,))
    yield _case("Bilinear", _x(B, 5), _x(B, 4), options=(5, 4, 3))
    for name in ("Embedding", "EmbeddingBag"):
        yield _case(name, indices, options=(7, 4))
    flat, offsets = torch.randint(0, 7, (9,)), torch.tensor([0, 2, 5])
    yield _case("EmbeddingBag", flat, offsets, options=(7, 4), dynamic=False, mode="sum")
    for name in ("CosineSimilarity", "PairwiseDistance"):
        yield _case(name, _x(B, 5), _x(B, 5))
    yield _case("AdaptiveLogSoftmaxWithLoss", _x(B, 6), torch.tensor([0, 3, 7, 11]), options=(6, 12), cutoffs=[4, 8])
    yield NnCase("Sequential", lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), (_x(B, 5),))


TOLERANCE = 1e-5


@dataclass(frozen=True)
class Outcome:
    """The export ``method`` of one case; None, with a ``reason`` of one sentence, if no method succeeds."""

    name: str
    method: str | None
    reason: str = ""


def uncovered() -> list[str]:
    """Return the classes of torch.nn without a case."""
    called = {case.name.partition("(")[0].partition(" ")[0] for case in all_cases()}
    return sorted(nn_classes().keys() - called - NOT_CALLED_WITH_TENSORS.keys())


def measure(case: NnCase, programs: Sequence[ProgramKind] = ("torchscript", "onnx")) -> Outcome:
    """Export the module of ``case`` as the first of ``programs`` that works, and compare the loaded module with it."""
    torch.manual_seed(0)
    module = case.make().eval()
    reason = ""
    for program in programs:
        settings: dict[str, Any] = {"onnx": False} if program == "torchscript" else {"how": program}
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "module"
            try:
                report = export_module(module, case.args, path, dynamic_batch=case.dynamic_batch, **settings)
                _call_loaded(module, case, path)
            except HotswapError as error:
                found = one_line(error).rpartition(". Found: ")[2]
                reason = reason or re.split(r"(?<=\w)\. |; script\+trace", found)[0]
            else:
                return Outcome(case.name, report.taken[0])
    return Outcome(case.name, None, reason)


def _call_loaded(module: torch.nn.Module, case: NnCase, path: Path) -> None:
    with torch.no_grad():
        expected, wanted, _ = describe(module(*case.args), "the result")
    found, got, _ = describe(
        load_policy(path, sandbox=None, trust_native=True, trusted_modules=("torch",))(*case.args), "the result"
    )
    if found != expected:
        raise HotswapError(f"expected {expected} from the loaded module, found {found}")
    for a, b in zip(wanted, got, strict=True):
        if not torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True):
            raise HotswapError("the loaded module and the module return different numbers")


def main() -> int:
    """Print the share, the methods, and one line for each case without a method."""
    parser = argparse.ArgumentParser(description=__doc__.partition(": ")[2])
    parser.add_argument("--programs", nargs="+", default=("torchscript", "onnx"), choices=get_args(ProgramKind))
    programs = parser.parse_args().programs
    warnings.simplefilter("ignore")
    outcomes = [measure(case, programs) for case in all_cases()]
    exported = [outcome for outcome in outcomes if outcome.method is not None]
    for outcome in outcomes:
        if outcome.method is None:
            print(f"{outcome.name}: {outcome.reason}")
    methods = collections.Counter(outcome.method for outcome in exported)
    print(", ".join(f"{method} {count}" for method, count in methods.most_common()))
    classes = len(nn_classes()) - len(NOT_CALLED_WITH_TENSORS)
    print(
        f"{len(exported)} of {len(outcomes)} cases ({len(exported) / len(outcomes):.1%}) of {classes} classes of "
        f"torch.nn {torch.__version__} export by some method and equal eager within {TOLERANCE:g} + {TOLERANCE:g} * |x|"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
