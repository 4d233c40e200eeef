"""``python scripts/conformance/export_coverage.py``: share of torch.nn that exports and equals eager."""

import collections
import re
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from scripts.conformance.torch_nn_cases import NOT_CALLED_WITH_TENSORS, NnCase, all_cases, nn_classes
from shared.errors import HotswapError, one_line
from shared.policy.nested_values import describe

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Outcome:
    """The export ``method`` of one case; None, with a ``reason`` of one sentence, if no method succeeds."""

    name: str
    method: str | None
    reason: str = ""


def measure(cases: Iterable[NnCase]) -> list[Outcome]:
    return [_outcome(case) for case in cases]


def uncovered() -> list[str]:
    """Return the classes of torch.nn without a case."""
    called = {case.name.partition("(")[0].partition(" ")[0] for case in all_cases()}
    return sorted(nn_classes().keys() - called - NOT_CALLED_WITH_TENSORS.keys())


def _outcome(case: NnCase) -> Outcome:
    torch.manual_seed(0)
    module = case.make().eval()
    reason = ""
    for settings in ({"onnx": False}, {"how": "onnx"}):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "module"
            try:
                report = export_module(module, case.args, path, dynamic_batch=case.dynamic_batch, **settings)
                _call_loaded(module, case, path)
            except HotswapError as error:
                reason = reason or _first_reason(error)
            else:
                return Outcome(case.name, report.taken[0])
    return Outcome(case.name, None, reason)


def _first_reason(error: HotswapError) -> str:
    return re.split(r"(?<=\w)\. |; script\+trace", one_line(error).rpartition(". Found: ")[2])[0]


def _call_loaded(module: torch.nn.Module, case: NnCase, path: Path) -> None:
    """Raise HotswapError if the loaded module returns another structure or other numbers."""
    with torch.no_grad():
        expected, wanted, _ = describe(module(*case.args), "the result")
    found, got, _ = describe(load_policy(path, trusted_modules=("torch",))(*case.args), "the result")
    if found != expected:
        raise HotswapError(f"expected {expected} from the loaded module, found {found}")
    for a, b in zip(wanted, got, strict=True):
        if not torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True):
            raise HotswapError("the loaded module and the module return different numbers")


def main() -> int:
    """Print the share, the methods, and one line for each case without a method."""
    warnings.simplefilter("ignore")
    outcomes = measure(all_cases())
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
