"""``python -m scripts.conformance.native_operators``: write the lists of ``shared/operators`` for the C++ actor.

A test fails while the file differs from the lists.
"""

from collections.abc import Iterable
from pathlib import Path

from shared.operators.torchscript_lists import CONCATENATING, FRESH, RANDOM_UNLESS, READING, WRITING, Condition

PATH = Path(__file__).resolve().parents[2] / "actor" / "native" / "library" / "operator_lists.cpp"
_COLUMNS = 120


def render() -> str:
    """Return the C++ source."""
    rules = (f'    {{"{name}", {_alternatives(RANDOM_UNLESS[name])}}},' for name in sorted(RANDOM_UNLESS))
    return "\n".join(
        (
            "// shared/operators/torchscript_lists.py, written by `python -m scripts.conformance.native_operators`.",
            '#include "operator_lists.h"',
            "",
            "namespace rl_hotswap {",
            "",
            "// clang-format off",
            "const std::unordered_set<std::string> kPureOperators = {",
            *_filled(sorted(READING | WRITING)),
            "};",
            "",
            "const std::unordered_set<std::string> kFreshOperators = {",
            *_filled(sorted(FRESH | CONCATENATING)),
            "};",
            "",
            "const std::unordered_map<std::string, Alternatives> kRandomUnless = {",
            *rules,
            "};",
            "// clang-format on",
            "",
            "}  // namespace rl_hotswap",
            "",
        )
    )


def _filled(names: Iterable[str]) -> list[str]:
    lines = [""]
    for name in names:
        word = f' "{name}",'
        if len(lines[-1]) + len(word) > _COLUMNS - 3:
            lines.append("")
        lines[-1] += word
    return ["   " + line for line in lines]


def _alternatives(alternatives: Iterable[Iterable[Condition]]) -> str:
    # The schema gives each argument by name, so that forms which differ in positions are one.
    unique = dict.fromkeys(tuple(_condition(c) for c in one if c.value is not bool) for one in alternatives)
    return "{" + ", ".join("{" + ", ".join(one) + "}" for one in unique) + "}"


def _condition(condition: Condition) -> str:
    kind = {"False": "kFalse", "0.0": "kZero", "None": "kNone"}[str(condition.value)]
    return f'{{"{condition.name}", Required::{kind}}}'


if __name__ == "__main__":
    PATH.write_text(render())
