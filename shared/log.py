"""Logging as every process here does it: to the terminal, and to a rotating file of its own in the run directory."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loguru import logger

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from loguru import Record

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

FILE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} | {level: <8} | {name}:{function}:{line} - {message}"
TERMINAL_FORMAT = (
    "<green>{time:HH:mm:ss.SSS}</green> | <level>{level: <8}</level> | "
    "<cyan>{name}:{function}:{line}</cyan> - {message}"
)

# A supervisor reads its children's terminal output line by line and knows these by their level.
SUPERVISED_FORMAT = "{level} | {name}:{function}:{line} - {message}"


def set_up_logging(
    process_name: str,
    log_dir: Path | None,
    *,
    terminal_level: Level | None = "INFO",
    file_level: Level = "DEBUG",
    supervised: bool = False,
) -> None:
    """Send this process's log to stderr and to ``log_dir/process_name.log``; a later call replaces an earlier one.

    ``terminal_level`` None keeps the terminal silent. A ``supervised`` child shows warnings and worse, in a short form
    that its supervisor prints. Raises ConfigurationError where the file cannot be written.
    """
    logger.remove()
    logger.configure(patcher=_name_main_module)
    if supervised:
        logger.add(sys.stderr, level="WARNING", format=SUPERVISED_FORMAT, colorize=False, diagnose=False)
    elif terminal_level is not None:
        logger.add(sys.stderr, level=terminal_level, format=TERMINAL_FORMAT, diagnose=False)
    if log_dir is not None:
        _add_file(log_dir / f"{process_name}.log", file_level)


def _add_file(path: Path, level: Level) -> None:
    try:
        # diagnose=False: values of variables in tracebacks can hold keys, and whole arrays.
        logger.add(
            path, level=level, format=FILE_FORMAT, rotation="10 MB", retention=5, encoding="utf-8", diagnose=False
        )
    except OSError as error:
        raise ConfigurationError(f"cannot write the log file {path}: {error.strerror or error}") from error


def _name_main_module(record: "Record") -> None:
    """``python -m actor.run`` calls its module ``__main__``; the log says ``actor.run``."""
    if record["name"] == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None:
            record["name"] = spec.name
