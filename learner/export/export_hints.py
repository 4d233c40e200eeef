"""What to change about a module that no method of the methods could export: one sentence for each of torch's
messages.
"""

import re
from collections.abc import Sequence

from shared.policy.manifest import MethodReport

_NO_SOURCE = (
    "script needs the source of every class and function in the module, as a .py file that says what was imported: "
    "ship it, or leave nothing for script to do (torch.where for a branch, tensor operations for a loop), "
    "and it is traced"
)
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"object has no attribute or method 'numpy'",
        "stay with torch's operations inside forward: what numpy computes leaves no trace in a program",
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
        "make a function or a method of the lambda, with its arguments annotated",
    ),
    (
        r"can't take variable number of arguments",
        "name the arguments of forward one by one: script reads no *args, no **kwargs and no keyword-only arguments "
        "with defaults",
    ),
    (
        r"Tensor \(inferred\) cannot be used as a tuple|Expected a value of type 'Tensor \(inferred\)'",
        "annotate the arguments of forward and of every method that it calls (x: tuple[Tensor, Tensor], "
        "x: list[Tensor], n: int): what has no annotation is a Tensor to script",
    ),
    (
        r"has no attribute|object has no attribute or method",
        "keep what forward needs as tensors, numbers, strings, submodules, or lists, tuples and dicts of them, "
        "and call only what torch.Tensor has in TorchScript",
    ),
)


_ANYTHING = (
    "write forward so that script can read it (annotated arguments, the constructs that its message names left out), "
    "or without decisions and loops on data (torch.where, tensor operations), and it is traced"
)


def hint(reports: Sequence[MethodReport]) -> str | None:
    """What to change, by the first message that is known; what helps anything where none is, and the methods was tried.

    None for a single method whose message is not known: it says itself what it stumbled over.
    """
    for report in reports:
        for pattern, advice in _HINTS:
            if re.search(pattern, report.error or ""):
                return advice
    return _ANYTHING if len(reports) > 1 else None
