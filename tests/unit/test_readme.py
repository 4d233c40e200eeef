"""README cannot rot: its commands parse, its Python runs, its links lead somewhere, and CI runs what it says."""

import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import tyro

from actor.session.actor_settings import ActorSettings
from learner.training.run_options import LearnerRun
from rl_hotswap.cli.evaluate import EvaluateOptions
from rl_hotswap.cli.export import ExportOptions
from rl_hotswap.cli.inspect import InspectOptions
from rl_hotswap.cli.keys import KeysOptions
from rl_hotswap.cli.rollback import RollbackOptions
from rl_hotswap.cli.train import TrainOptions
from scripts.benchmark import BenchmarkOptions
from scripts.chaos import ChaosOptions
from shared.run.environment_description import find_environment
from shared.run.progress import Summary
from tests.support.paths import REPOSITORY
from tests.support.published_run import publish_run

_README = (REPOSITORY / "README.md").read_text()
_SETTINGS = {
    "python scripts/train.py": TrainOptions,
    "python scripts/evaluate.py": EvaluateOptions,
    "python scripts/inspect_policy.py": InspectOptions,
    "python scripts/export_policy.py": ExportOptions,
    "python scripts/keys.py": KeysOptions,
    "python scripts/rollback.py": RollbackOptions,
    "python scripts/benchmark.py": BenchmarkOptions,
    "python scripts/chaos.py": ChaosOptions,
    "python -m actor.run": ActorSettings,
    "python -m learner.run": LearnerRun,
}
_EXAMPLES = ("python scripts/examples/cleanrl_agent.py", "python scripts/conformance/export_coverage.py")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    """Every command of ours, without how its interpreter is found."""
    commands = []
    for line in "".join(_blocks("bash")).replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            command = part.strip().replace(".venv/bin/", "")
            if command.startswith(("python scripts/", "python -m actor", "python -m learner")):
                commands.append(" ".join(command.split()))
    return commands


@pytest.mark.parametrize("command", _commands())
def test_commands_parse(command: str) -> None:
    if command in _EXAMPLES:  # without flags; other tests run them
        assert (REPOSITORY / command.removeprefix("python ")).is_file()
        return
    name, settings = next((name, settings) for name, settings in _SETTINGS.items() if command.startswith(name))
    options = tyro.cli(settings, args=shlex.split(command.removeprefix(name)))
    env_id = getattr(options, "env", None)
    if env_id is not None:
        find_environment(env_id)


def test_every_command_is_shown() -> None:
    assert {name for name in _SETTINGS if any(command.startswith(name) for command in _commands())} == set(_SETTINGS)


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block for block in _blocks("python") if block.startswith("import gymnasium"))
    publish_run(tmp_path / "runs" / "cartpole", "CartPole-v1", onnx=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(code)
    runpy.run_path("example.py")
    assert re.fullmatch(r"(version 0: \d+\n){3}", capsys.readouterr().out)


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", _README)
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://") or (REPOSITORY / link).is_file(), link


def test_the_two_commands_stand_on_the_first_screen_and_are_complete() -> None:
    train, test = _blocks("bash")[:2]
    assert _README.index(test) < _README.index("## ")
    assert len(_README[: _README.index(test)].splitlines()) < 20
    assert re.fullmatch(r"python3\.11 -m venv \.venv && .* -e \. && .*python scripts/train\.py\n", train)
    assert re.fullmatch(r"\(\[ -d \.venv \] \|\| python3\.11 -m venv \.venv\) && .*\[dev\].* && .*pytest.*\n", test)


def test_ci_runs_the_test_command_as_it_is_printed() -> None:
    """The line of .ci/run that reads it out of README, run here."""
    script = (REPOSITORY / ".ci" / "run").read_text()
    (reading,) = re.findall(r"^test_command=\$\((.*)\)$", script, re.MULTILINE)
    read = subprocess.run(["bash", "-c", reading], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert read.stdout == _blocks("bash")[1]
    assert 'step "$test_command"' in script


def test_extras_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"\.\[([a-z0-9,]+)\]", _README))
    assert named
    assert named <= set(extras)


def test_the_summary_is_described_as_it_is() -> None:
    described = _README[_README.index("summary.json        what came of it:") : _README.index("Each process logs")]
    for name in Summary.__struct_fields__:
        assert re.search(rf"\b{name}\b", described), name


def test_the_tests_that_keep_the_promises_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _README)
    assert len(named) > 10
    for path, name in named:
        assert f"def {name}(" in (REPOSITORY / path).read_text(), f"{path}::{name}"
