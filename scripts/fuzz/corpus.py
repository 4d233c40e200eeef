"""``python -m scripts.fuzz.corpus TARGET WORK``: keep of the inputs in ``WORK/TARGET`` what reaches new lines."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from scripts.fuzz.targets import CORPUS, TARGETS, outcome

_PACKAGES = tuple(str(CORPUS.parents[1] / name) for name in ("shared", "actor"))
_MAX_BYTES = 60_000
Step = tuple[str, int, int]


def main() -> None:
    """Copy the smallest inputs that take a step from one line to another that no kept input takes."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz.corpus", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    run = import_module(f"scripts.fuzz.{options.target}").run
    corpus = CORPUS / options.target
    reached: set[Step] = set()
    for path in sorted(corpus.iterdir()):
        reached |= _steps(run, path.read_bytes())
    for path in sorted((options.work / options.target).iterdir(), key=lambda path: path.stat().st_size):
        data = path.read_bytes()
        size = sum(kept.stat().st_size for kept in corpus.iterdir())
        if size + len(data) <= _MAX_BYTES and not (steps := _steps(run, data)) <= reached:
            reached |= steps
            (corpus / path.name[:12]).write_bytes(data)


def _steps(run: Any, data: bytes) -> set[Step]:
    """Return the pairs of lines of this project's code that ``run`` executes one after the other."""
    steps: set[Step] = set()

    def trace(frame: FrameType, _event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGES):
            return None
        last = -1

        def trace_line(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal last
            if event == "line":
                steps.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return trace_line

        return trace_line

    sys.settrace(trace)
    try:
        outcome(run, data)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    main()
