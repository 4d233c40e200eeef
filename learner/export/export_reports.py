"""Reports of export methods for people: one line for each, and one sentence on what to change where all failed."""

import re
from collections.abc import Sequence

from shared.errors import ExportError, one_line
from shared.policy.manifest import MethodReport

_NO_SOURCE = (
    "ship the .py file of every class and function in the module, as it was imported, for script; or use torch.where "
    "for a branch and tensor operations for a loop, so that trace works"
)
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"object has no attribute or method 'numpy'",
        "stay with torch's operations inside forward: a program cannot call numpy",
    ),
    (r"could not get source code|Can't get source for|source code not available|lineno is out of bounds", _NO_SOURCE),
    (r"code object was expected, got|is a built-in class", _NO_SOURCE),
    (
        r"Failed to get source for",
        "annotate forward with tensors, tuples, lists and dicts of them, or not at all: "
        "script reads no dataclass whose methods were generated",
    ),
    (
        r"Lambda aren't supported|Expected a single top-level function",
        "replace the lambda by a function or a method with annotated arguments",
    ),
    (
        r"can't take variable number of arguments",
        "name the arguments of forward one by one: script reads no *args, **kwargs or keyword-only defaults",
    ),
    (
        r"Tensor \(inferred\) cannot be used as a tuple|Expected a value of type 'Tensor \(inferred\)'",
        "annotate the arguments of forward and of every method that it calls (x: tuple[Tensor, Tensor], "
        "x: list[Tensor], n: int): without an annotation, script assumes a Tensor",
    ),
    (
        r"has no attribute|object has no attribute or method",
        "keep the attributes that forward uses as tensors, numbers, strings, submodules, or lists, tuples and dicts of "
        "them, and call only methods that torch.Tensor has in TorchScript",
    ),
)
_ANYTHING = (
    "write forward so that script can read it (annotated arguments, none of the constructs that its message names), "
    "or use torch.where for a branch and tensor operations for a loop, so that trace works"
)


def describe_report(report: MethodReport) -> str:
    """Return one line: taken with its differences from eager, or refused with the reason."""
    if not report.taken:
        return f"  {report.method}: refused: {one_line(report.error or '')}"
    sizes = report.by_batch_size if isinstance(report.by_batch_size, dict) else {}
    at = ", ".join(f"{sizes[size]:.1e} at {size}" for size in sorted(sizes, key=int))
    alone = "; compared for the example's values alone: the module takes no others" if report.input_sets == 1 else ""
    return f"  {report.method}: taken: differs from eager by {at or f'{report.largest_difference:.1e}'}{alone}"


def no_program(reports: Sequence[MethodReport]) -> ExportError:
    """Return the error of an export in which every method failed: what to change first, then each method's reason."""
    reasons = "; ".join(f"{report.method}: {one_line(report.error or '')}" for report in reports)
    if len(reports) > 1:
        reasons = f"no method gives a program that equals the module: {reasons}"
        reasons += "" if any(report.method == "aot" for report in reports) else "; aot was not tried"
    said = [report.error or "" for report in reports]
    known = (advice for text in said for pattern, advice in _HINTS if re.search(pattern, text))
    # A single method with an unknown message: the message itself is the best advice.
    advice = next(known, _ANYTHING if len(reports) > 1 else None)
    error = ExportError(reasons if advice is None else f"What to change: {advice}. Found: {reasons}")
    for report in reports:
        error.add_note(describe_report(report))
    return error
