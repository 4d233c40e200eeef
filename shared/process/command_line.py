"""Command lines: typed settings, one-line errors, and exit codes.

2: it could not run; 4: the environment failed; 130: Ctrl-C; 0, 1 and others: the command.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from shared.errors import EnvironmentFailed, HotswapError, one_line
from shared.process.terminal import print_line

# Flags of the last release that this release still accepts.
_DEPRECATED_FLAGS = {
    "--take-turns": "--sync",
    "--no-take-turns": "--async",
    "--try-first": "--sandbox",
    "--no-try-first": "--no-sandbox",
}

CANNOT = 2
ENVIRONMENT_FAILED = 4
INTERRUPTED = 130
_BROKEN_PIPE = 141

Settings = TypeVar("Settings")

_BOX = re.compile(r"\x1b\[[0-9;]*m|[│╭╮╰╯]")
_RULE = re.compile(r"─{3,}.*")


def run_command(
    name: str, settings: type[Settings], main: Callable[[Settings], int], arguments: Sequence[str] | None = None
) -> int:
    """Parse ``arguments`` (``sys.argv[1:]`` if None) into ``settings``, run ``main`` with them, return the exit code.

    ``name`` is how the command is started ("python -m actor.run"). The docstring of the dataclass heads ``--help``; the
    docstrings of its fields explain the flags. A HotswapError is printed as one line; any other exception is a bug and
    keeps its traceback.
    """
    if (directory := str(Path.cwd())) not in sys.path:  # flags may name modules there (``--env module:EnvId``)
        sys.path.append(directory)
    try:
        parsed = _parse(name, settings, _current_flags(name, sys.argv[1:] if arguments is None else arguments))
        return parsed if isinstance(parsed, int) else main(parsed)
    except HotswapError as error:
        _print_line(name, str(error) or type(error).__name__)
        return ENVIRONMENT_FAILED if isinstance(error, EnvironmentFailed) else CANNOT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout (`| head`) ended; Python would print an error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _current_flags(name: str, arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` with each deprecated flag replaced, after a line on stderr; ``--async`` as tyro names it."""
    current = []
    for argument in arguments:
        flag = _DEPRECATED_FLAGS.get(argument.replace("_", "-"), argument)
        if flag != argument:
            _print_line(name, f"{argument} is deprecated; use {flag}")
        current.append("--no-sync" if flag == "--async" else flag)
    return current


def _parse(name: str, settings: type[Settings], arguments: Sequence[str]) -> Settings | int:
    """Return the settings, or an exit code after the parser printed help or an error."""
    import tyro

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(settings, prog=name, args=arguments)
    except SystemExit as done:
        if not done.code:
            return 0
        _print_line(name, f"{_first_part(output.getvalue())} (--help lists every flag)")
        return CANNOT


def _first_part(box: str) -> str:
    """Return the text of a boxed message above its first inner rule, as one line."""
    lines = [_BOX.sub("", line).strip() for line in box.splitlines()]
    title, *body = [line for line in lines if line] or ["bad flags"]
    words: list[str] = []
    for line in body:
        if _RULE.match(line):
            break
        words.append(line)
    return " ".join(words) or _RULE.sub("", title).strip("─ ")


def _print_line(name: str, message: str) -> None:
    print_line(f"{name}: {one_line(message)}", sys.stderr)
