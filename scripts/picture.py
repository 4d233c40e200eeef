"""``python scripts/picture.py``: train CartPole-v1 and write the live display as ``docs/pictures/train.svg``."""

import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from rich.terminal_theme import MONOKAI

from rl_hotswap.cli import train
from rl_hotswap.launcher.live_display import LiveTable
from rl_hotswap.launcher.terminal import Terminal

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "train.svg"
_COMMAND = "rl-hotswap train --env CartPole-v1 --run-dir runs/cartpole"
_WIDTH = 104


class _LastFrame(LiveTable):
    """The live table that forgets every frame but the last: a picture shows one."""

    def __init__(self, console: Terminal, title: str) -> None:
        super().__init__(console, title)
        self._console = console

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._console.export_text(clear=True)
        self._console.print(f"$ {_COMMAND}")
        self._console.print(self._live.get_renderable())


def main() -> int:
    """Run the command of the picture, write the picture, and return the command's exit code."""
    console = Terminal(record=True, force_terminal=True, width=_WIDTH)
    with (
        tempfile.TemporaryDirectory() as directory,
        patch.object(train, "Terminal", lambda: console),
        patch.object(train, "open_display", _LastFrame),
    ):
        os.chdir(directory)
        code = train.command(_COMMAND.split()[2:])
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(PICTURE), title="rl-hotswap", theme=MONOKAI)
    return code


if __name__ == "__main__":
    sys.exit(main())
