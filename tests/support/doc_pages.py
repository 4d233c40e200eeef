"""Pages of the documentation: their fenced blocks, and a runner that executes the blocks of one page in order.

A comment right before a fence changes how its block runs:

    <!-- block: slow="trains" limit=300 -->

``slow``          reason why the page runs only with ``-m slow``
``skip``          reason why the block does not run here (its commands are still parsed)
``exit``          expected exit code (0)
``limit``         seconds until the block counts as hung (120)
``needs``         shell condition without which the rest of the page is skipped
``background``    name: the block keeps running while later blocks run; the end of the page interrupts it
``ready``         with ``background``: shell condition to wait for
``stop``          name of a background block that is interrupted (Ctrl-C) before this block runs

A fence with ``title="FILE"`` is the content of that file: it is written, not run.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

RUNNABLE = ("bash", "python")
# Directories of a checkout that commands of some pages name.
_CHECKOUT = ("scripts", "actor")
_OPTIONS = ("slow", "skip", "needs", "exit", "limit", "background", "ready", "stop")
_BLOCK = re.compile(
    r"(?:^<!-- block: (?P<options>[^\n]*) -->\n)?(?:^<!-- \w+ -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_INTERRUPTED = (0, 130, -signal.SIGINT)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    @property
    def runs(self) -> bool:
        """True when the runner executes the block."""
        return self.language in RUNNABLE and self.title is None and "skip" not in self.options


def pages() -> list[Path]:
    """Return the README, CONTRIBUTING and every page under docs/."""
    return [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of ``page`` in order. Raises ValueError for an unknown option."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        options = dict(option.split("=", 1) for option in shlex.split(match["options"] or ""))
        line = text.count("\n", 0, match.start("language")) + 1
        if unknown := set(options) - set(_OPTIONS):
            raise ValueError(f"{page}:{line}: unknown options {sorted(unknown)}")
        found.append(Block(page, line, match["language"], match["text"], match["title"], options))
    return found


def run_page(page: Path, directory: Path) -> None:
    """Execute the blocks of ``page`` in ``directory``. Raises AssertionError with the output of a block that fails."""
    for name in _CHECKOUT:
        (directory / name).symlink_to(REPOSITORY / name)
    background: dict[str, _Process] = {}
    try:
        for block in blocks(page):
            if block.title is not None:
                (directory / block.title).write_text(block.text)
            elif block.runs:
                if _holds(block.options.get("needs", "true"), directory):
                    _run_block(block, directory, background)
                else:
                    pytest.skip(f"{block} needs {block.options['needs']}")
        for process in background.values():
            process.interrupt()
    finally:
        for process in background.values():
            process.kill()


def _run_block(block: Block, directory: Path, background: "dict[str, _Process]") -> None:
    options = block.options
    if "stop" in options:
        background.pop(options["stop"]).interrupt()
    process = _Process(block, directory)
    if "background" in options:
        background[options["background"]] = process
        process.wait_until(options.get("ready", "true"))
        return
    try:
        process.wait(float(options.get("limit", 120)), (int(options.get("exit", 0)),))
    finally:
        process.kill()


def _holds(condition: str, directory: Path) -> bool:
    return subprocess.run(["bash", "-c", condition], cwd=directory, capture_output=True, check=False).returncode == 0


class _Process:
    """A running block with its output in a file."""

    def __init__(self, block: Block, directory: Path) -> None:
        self._block = block
        self._directory = directory
        self._output = directory / f".output-{block.line}"
        if block.language == "python":
            script = directory / f"block_{block.line}.py"
            script.write_text(block.text)
            command = [sys.executable, str(script)]
        else:
            command = ["bash", "-euo", "pipefail", "-c", block.text]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, limit_s: float, expected: tuple[int, ...]) -> None:
        try:
            code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._block} still runs after {limit_s:g} s: {self._said()}") from None
        assert code in expected, f"{self._block} ended with exit code {code}, expected {expected}: {self._said()}"

    def wait_until(self, condition: str, limit_s: float = 120.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not _holds(condition, self._directory):
            assert time.monotonic() < deadline_s, f"{self._block}: {condition} does not hold: {self._said()}"
            assert self._process.poll() is None, f"{self._block} ended early: {self._said()}"
            time.sleep(0.1)

    def interrupt(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        self.wait(30.0, _INTERRUPTED)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _said(self) -> str:
        return f"\n{self._block.text}\n{self._output.read_text(errors='replace')[-4000:]}"


def _environment() -> dict[str, str]:
    """Return the environment of an activated virtual environment, with this checkout's code first."""
    binaries = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "120",
    }


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a bash block as lists of words; ``$(...)`` must be quoted."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        command: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", "||", ";", "|"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)
