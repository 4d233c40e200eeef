from dataclasses import dataclass
from typing import Literal

import pytest

from shared.errors import ConfigurationError, PolicyUnavailable
from shared.process.command_line import run_command


@dataclass(frozen=True)
class _Settings:
    """Do something with an environment.

    More about it.
    """

    env: str
    """The environment's id."""
    envs: int = 1
    """How many of them."""
    engine: Literal["auto", "onnx"] = "auto"
    """What runs the policy."""


def _main(settings: _Settings) -> int:
    match settings.env:
        case "unknown":
            raise ConfigurationError("no environment\nunknown")
        case "unavailable":
            raise PolicyUnavailable("nothing can act")
        case "interrupted":
            raise KeyboardInterrupt
        case "faulty":
            raise ZeroDivisionError
    return settings.envs


def _run(*arguments: str) -> int:
    return run_command("python -m something", _Settings, _main, arguments)


def test_run_command_passes_settings_and_returns_the_exit_code() -> None:
    assert _run("--env", "x", "--envs", "7") == 7
    assert _run("--env", "interrupted") == 130
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        _run("--env", "faulty")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env", "unknown"], "python -m something: no environment unknown"),
        (["--env", "unavailable"], "python -m something: nothing can act"),
        (["--env", "x", "--envs", "many"], "--envs"),
        (["--env", "x", "--engine", "steam"], "'steam'"),
        (["--env", "x", "--speed", "9"], "--speed"),
        ([], "--env"),
    ],
)
def test_an_error_is_one_line_and_code_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("python -m something: ")
    assert said in err
    assert not set(err) & set("│─╭╰")


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--help") == 0
    said = capsys.readouterr().out
    assert "Do something with an environment." in said
    assert "--engine {auto,onnx}" in said
    assert "How many of them. (default: 1)" in said


@dataclass(frozen=True)
class _Turns:
    """Take turns or not."""

    sync: bool = True
    """Take turns."""


@pytest.mark.parametrize(
    ("flag", "current", "taken"),
    [("--take-turns", "--sync", 1), ("--no-take-turns", "--async", 0), ("--no_take_turns", "--async", 0)],
)
def test_a_deprecated_flag_works_and_is_one_line_on_the_terminal(
    flag: str, current: str, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("act", _Turns, lambda settings: int(settings.sync), [flag]) == taken
    assert capsys.readouterr() == ("", f"act: {flag} is deprecated; use {current}\n")
    assert run_command("act", _Turns, lambda settings: int(settings.sync), [current]) == taken
    assert capsys.readouterr() == ("", "")
