import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from shared.errors import ConfigurationError
from shared.log import set_up_logging

_REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    yield
    logger.remove()
    logger.configure(patcher=None)
    logger.add(sys.stderr)


def test_file_and_terminal_name_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("learner", tmp_path / "logs")
    logger.debug("only in the file")
    logger.error("could not get source code")
    lines = (tmp_path / "logs" / "learner.log").read_text().splitlines()
    place = re.escape(f"{__name__}:test_file_and_terminal_name_the_place:") + r"\d+"
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(rf"{stamp} \| DEBUG    \| {place} - only in the file", lines[0])
    assert re.fullmatch(rf"{stamp} \| ERROR    \| {place} - could not get source code", lines[1])
    terminal = capsys.readouterr().err
    assert "only in the file" not in terminal
    assert re.search(rf"ERROR    \| {place} - could not get source code", terminal)


def test_a_supervised_child_shows_warnings_only_and_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("actor-0", None, supervised=True)
    logger.info("adopted version 3")
    logger.warning("slow")
    said = capsys.readouterr().err
    assert re.fullmatch(rf"WARNING \| {re.escape(__name__)}:\w+:\d+ - slow\n", said)


def test_a_silent_terminal_and_a_second_setting_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("first", tmp_path)
    set_up_logging("second", tmp_path, terminal_level=None)
    logger.error("here")
    assert capsys.readouterr().err == ""
    assert "here" in (tmp_path / "second.log").read_text()
    assert "here" not in (tmp_path / "first.log").read_text()


def test_values_of_variables_stay_out_of_tracebacks(tmp_path: Path) -> None:
    set_up_logging("learner", tmp_path, terminal_level=None)
    key = "a private key"
    try:
        raise ValueError("wrong" + key[:0])
    except ValueError:
        logger.exception("failed")
    text = (tmp_path / "learner.log").read_text()
    assert "ValueError: wrong" in text
    assert "a private key'" not in text


def test_a_log_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigurationError, match="cannot write the log file"):
        set_up_logging("learner", tmp_path / "logs")


def test_the_main_module_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "run.py").write_text(
        "from loguru import logger\nfrom shared.log import set_up_logging\n"
        "set_up_logging('x', None, supervised=True)\nlogger.warning('here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "a_package.run"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "WARNING | a_package.run:<module>:4 - here\n"
