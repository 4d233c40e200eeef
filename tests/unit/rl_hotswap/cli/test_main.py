"""The console command ``rl-hotswap``."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import rl_hotswap
from rl_hotswap.cli.main import COMMANDS, main


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rl-hotswap {rl_hotswap.__version__}\n"


@pytest.mark.parametrize(("name", "hint"), [("trian", "did you mean train?"), ("xyz", "choose from train, act")])
def test_unknown_command_is_one_line_with_a_hint(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rl-hotswap: there is no command {name!r}: {hint}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_refuses_a_wrong_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: rl-hotswap {name}" in capsys.readouterr().out
    assert main([name, "--no-such-flag"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rl-hotswap {name}: ")
    assert err.count("\n") == 1


def test_help_does_not_import_torch() -> None:
    code = "import sys, rl_hotswap.cli.main as cli; cli.main(['train', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_package_installs_the_command() -> None:
    (script,) = entry_points(group="console_scripts", name="rl-hotswap")
    assert script.load() is main


@pytest.mark.parametrize("script", ["train", "evaluate", "inspect_policy", "export_policy", "rollback", "keys"])
def test_scripts_are_the_same_commands(script: str) -> None:
    command = [sys.executable, f"scripts/{script}.py", "--no-such-flag"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"rl-hotswap {script.removesuffix('_policy')}: ")
