"""Output for people, as plain lines. ``rl_hotswap.launcher.terminal`` has tables and colours."""

import sys
from typing import TextIO

from shared.errors import printable


def print_line(text: object, file: TextIO | None = None) -> None:
    """Print one line to ``file`` (stdout if None) at once. Control characters in ``text`` are escaped."""
    print(printable(text), file=file or sys.stdout, flush=True)
