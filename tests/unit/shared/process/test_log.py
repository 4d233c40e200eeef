import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from shared.errors import ConfigurationError
from shared.process.log import forward_warnings, set_up_logging
from tests.support.paths import REPOSITORY


def test_file_and_terminal_name_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("learner", tmp_path / "logs")
    logger.debug("only in the file")
    logger.error("could not get source code")
    lines = (tmp_path / "logs" / "learner.log").read_text().splitlines()
    place = re.escape(f"{__name__}:test_file_and_terminal_name_the_line:") + r"\d+"
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(rf"{stamp} \| DEBUG    \| {place} - only in the file", lines[0])
    assert re.fullmatch(rf"{stamp} \| ERROR    \| {place} - could not get source code", lines[1])
    terminal = capsys.readouterr().err
    assert "only in the file" not in terminal
    assert re.search(rf"ERROR    \| {place} - could not get source code", terminal)


def test_a_supervised_child_shows_only_warnings_in_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("actor-0", None, supervised=True)
    logger.info("adopted version 3")
    logger.warning("slow")
    said = capsys.readouterr().err
    assert re.fullmatch(rf"WARNING \| {re.escape(__name__)}:\w+:\d+ - slow\n", said)


def test_warnings_are_forwarded_in_short_form_within_the_context() -> None:
    forwarded: list[str] = []
    with forward_warnings(forwarded.append):
        logger.info("started")
        logger.warning("it {died}")
    logger.error("later")
    (line,) = forwarded
    assert re.fullmatch(rf"WARNING \| {re.escape(__name__)}:\w+:\d+ - it {{died}}", line)


def test_a_silent_terminal_a_second_setup_and_tracebacks_without_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("first", tmp_path)
    set_up_logging("second", tmp_path, terminal_level=None)
    key = "a private key"
    try:
        raise ValueError("wrong" + key[:0])
    except ValueError:
        logger.exception("failed")
    assert capsys.readouterr().err == ""
    assert "failed" not in (tmp_path / "first.log").read_text()
    text = (tmp_path / "second.log").read_text()
    assert "failed" in text
    assert "ValueError: wrong" in text
    assert "a private key'" not in text
    with pytest.raises(ConfigurationError, match="cannot write the log file"):
        set_up_logging("learner", tmp_path / "first.log")


def test_the_main_module_is_logged_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "run.py").write_text(
        "from loguru import logger\nfrom shared.process.log import set_up_logging, forward_warnings\n"
        "set_up_logging('x', None, supervised=True)\nlogger.warning('here')\n"
    )
    command, environment = [sys.executable, "-m", "a_package.run"], {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING | a_package.run:<module>:4 - here\n"


def test_a_full_disk_loses_lines_with_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, path = Path("/dev/full"), tmp_path / "learner.log"
    if not full.exists():
        pytest.skip("this system has no disk that is always full")
    path.symlink_to(full)
    set_up_logging("learner", tmp_path, terminal_level=None)
    for _ in range(3):
        logger.info("lost")
    assert re.fullmatch(
        r"WARNING \| shared.process.log:write - cannot write .*learner.log: .*No space left.*\n",
        capsys.readouterr().err,
    )


def test_logging_continues_when_the_disk_has_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_logging("learner", tmp_path, terminal_level=None)
    logger.info("before")

    def no_room(_file: object, _text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("shared.process.log._LogFile._append", no_room)
        for _ in range(3):
            logger.info("lost")
    logger.info("after")
    text = (tmp_path / "learner.log").read_text()
    assert re.search(r"before\n\n3 lines are missing here: they could not be written\n.* after\n$", text)


def test_files_are_rotated_and_the_oldest_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.process.log._ROTATE_AFTER_BYTES", 1)
    set_up_logging("learner", tmp_path, terminal_level=None)
    for number in range(10):
        logger.info("line {}", number)
    assert "line 9" in (tmp_path / "learner.log").read_text()
    assert "line 8" in (tmp_path / "learner.1.log").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"learner.log", *(f"learner.{n}.log" for n in range(1, 6))}
