"""Logging of a process: to the terminal, and to a rotating file of its own in the run directory."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loguru import logger

from shared.errors import ConfigurationError, EnvironmentFailed, printable
from shared.process.terminal import print_line

if TYPE_CHECKING:
    from loguru import Record

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_FILE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} | {level: <8} | {name}:{function}:{line} - {extra[text]}"
_TERMINAL_FORMAT = (
    "<green>{time:HH:mm:ss.SSS}</green> | <level>{level: <8}</level> | "
    "<cyan>{name}:{function}:{line}</cyan> - {extra[text]}"
)

# A supervisor reads the stderr of its children line by line and recognizes log lines by their level.
_SUPERVISED_FORMAT = "{level} | {name}:{function}:{line} - {extra[text]}"

_ROTATE_AFTER_BYTES = 10 * 2**20
_FILES_KEPT = 5


def _escaped(form: str) -> Callable[["Record"], str]:
    """Return the format function for ``form``: one line for each record, then its traceback, indented.

    Messages quote texts of actors, environments, stores and programs. Escaped, these cannot look like another record.
    """

    def format_record(record: "Record") -> str:
        record["extra"]["text"] = printable(record["message"])
        if record["exception"] is None:
            return form + "\n"
        lines = "".join(traceback.format_exception(record["exception"].value)).splitlines()
        record["extra"]["traceback"] = "".join(f"    {printable(line)}\n" for line in lines)
        return form + "\n{extra[traceback]}"

    return format_record


_add_supervised = partial(
    logger.add, level="WARNING", format=_escaped(_SUPERVISED_FORMAT), colorize=False, diagnose=False
)


def set_up_logging(
    process_name: str,
    log_dir: Path | None,
    *,
    terminal_level: Level | None = "INFO",
    file_level: Level = "DEBUG",
    supervised: bool = False,
) -> Path | None:
    """Log to stderr and to ``log_dir/process_name.log``, whose path is returned. A later call replaces an earlier one.

    Only processes that this project starts call it: it replaces all sinks of loguru. ``terminal_level`` None shows
    nothing on stderr; a ``supervised`` child shows warnings and errors in the short format that its supervisor reads.
    Raises ConfigurationError if the log file cannot be written.
    """
    logger.remove()
    logger.configure(patcher=_name_main_module)
    if supervised:
        _add_supervised(sys.stderr)
    elif terminal_level is not None:
        logger.add(sys.stderr, level=terminal_level, format=_escaped(_TERMINAL_FORMAT), diagnose=False)
    if log_dir is None:
        return None
    path = log_dir / f"{process_name}.log"
    try:
        # diagnose=False: the values of variables can be keys, and large arrays.
        logger.add(_LogFile(path), level=file_level, format=_escaped(_FILE_FORMAT), diagnose=False)
    except OSError as error:
        raise ConfigurationError(
            f"choose a writable --run-dir: cannot write the log file {path}: {error.strerror or error}"
        ) from error
    return path


@contextmanager
def forward_warnings(forward: Callable[[str], None]) -> Iterator[None]:
    """Pass each warning and error of this process to ``forward``, as one line in the format of supervised children."""
    sink = _add_supervised(lambda line: forward(line.rstrip("\n")))
    try:
        yield
    finally:
        logger.remove(sink)


@contextmanager
def environment_failures(log: Path | None) -> Iterator[None]:
    """Log the traceback of an environment that fails, and name ``log`` in its error.

    The terminal shows the traceback only if ``log`` is None, that is, if this process writes no log file.
    """
    try:
        yield
    except EnvironmentFailed as error:
        level = "ERROR" if log is None else "DEBUG"
        logger.opt(exception=error).log(level, "environment failed error={}", error)
        place = "" if log is None else f"; the traceback is in {log}"
        raise EnvironmentFailed(f"fix the environment: {error}{place}") from error


class _LogFile:
    """Rotating file that warns once on a full disk; that of loguru prints a traceback for every line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._lost_lines = 0

    def write(self, message: str) -> None:
        try:
            if self._file.tell() > _ROTATE_AFTER_BYTES:
                self._rotate()
            if self._lost_lines:
                self._append(f"\n{self._lost_lines} lines are missing here: they could not be written\n")
                self._lost_lines = 0
            self._append(message)
        except (OSError, ValueError) as error:  # ValueError: closed, and could not be opened again
            self._lost_lines += 1
            if self._lost_lines == 1:
                print_line(f"WARNING | {__name__}:write - cannot write {self._path}: {error}", sys.stderr)

    def stop(self) -> None:
        self._file.close()

    def _append(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        written = self._file.write(data)
        if written < len(data):  # the second write raises the reason
            self._file.write(data[written:])

    def _rotate(self) -> None:
        self._file.close()
        for number in range(_FILES_KEPT - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._older(number).replace(self._older(number + 1))
        self._path.replace(self._older(1))
        self._file = self._path.open("ab", buffering=0)

    def _older(self, number: int) -> Path:
        return self._path.with_suffix(f".{number}.log")


def _name_main_module(record: "Record") -> None:
    """Log ``actor.run`` instead of ``__main__`` for ``python -m actor.run``."""
    if record["name"] == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None:
            record["name"] = spec.name
