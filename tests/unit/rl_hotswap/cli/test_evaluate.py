import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from learner.networks.network_config import NetworkConfig
from rl_hotswap.cli.evaluate import COMMAND, EvaluateOptions, main
from rl_hotswap.evaluation import OneVersionStore, evaluate
from shared.errors import NotTrusted
from shared.process.command_line import run_command
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import publish_run

ENV = "CartPole-v1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return publish_run(tmp_path_factory.mktemp("runs") / "cartpole", ENV, versions=2, onnx=False)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is found by chance."""
    monkeypatch.chdir(tmp_path)


def _evaluate(*flags: str) -> int:
    return run_command(COMMAND, EvaluateOptions, main, flags)


def _json(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    assert _evaluate(f"--env={ENV}", "--json", *flags) == 0
    return json.loads(capsys.readouterr().out)


def _by_hand(run: RunDirectory, version: int, seed: int) -> float:
    """The return of one episode, written out."""
    store = OneVersionStore(LocalPolicyStore(run.policies).open(version))
    env = gymnasium.make(ENV)
    with Agent(store, AgentOptions(deterministic=True, synchronous=True)) as agent:
        observation, _ = env.reset(seed=seed)
        agent.reset()
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total += float(reward)
            done = terminated or truncated
    env.close()
    return total


def test_the_newest_version_acts_without_noise_from_one_seed_to_the_next(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, f"--run-dir={run.path}", "--episodes=4", "--seed=7")
    returns = [_by_hand(run, 1, seed) for seed in (7, 8, 9, 10)]
    assert found["returns"] == returns
    assert (found["version"], found["env"], found["seed"], found["episodes"]) == (1, ENV, 7, 4)
    assert found["digest"] == LocalPolicyStore(run.policies).open(1).manifest.digest
    expected = (np.mean(returns), np.std(returns), np.min(returns), np.max(returns))
    assert (found["mean"], found["std"], found["min"], found["max"]) == pytest.approx(expected)
    assert found["lengths"] == returns


def test_one_version_is_evaluated_by_its_directory(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, f"--policy={run.policies / 'v000000'}", "--episodes=2", "--seed=3")
    assert found["version"] == 0
    assert found["returns"] == [_by_hand(run, 0, 3), _by_hand(run, 0, 4)]


def test_without_a_directory_the_environments_run_is_found(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "runs").symlink_to(run.path.parent)
    assert _json(capsys, "--episodes=1")["version"] == 1


def test_a_table_for_people(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert _evaluate(f"--env={ENV}", f"--run-dir={run.path}", "--episodes=1") == 0
    said = capsys.readouterr()
    assert "version 1" in said.out
    assert "mean return" in said.out
    assert said.err == ""


def test_an_episode_does_not_depend_on_those_before_it(tmp_path: Path) -> None:
    """Recurrent state is cleared between episodes."""
    network = NetworkConfig("lstm", (8,), recurrent_size=8)
    run = publish_run(tmp_path / "run", ENV, network=network, onnx=False)
    together = evaluate(run.policies / "v000000", episodes=3, seed=5)
    assert together.returns[2:] == evaluate(run.path, ENV, episodes=1, seed=7).returns
    assert together == evaluate(LocalPolicyStore(run.policies), episodes=3, seed=5)


def test_a_version_chooses_no_module_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment id may name a module, and the writer of a store chooses the id."""
    run = publish_run(tmp_path / "run", ENV, onnx=False)
    Path("chosen_module.py").write_text("raise SystemExit('code of the store ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for path in (run.path / "run.json", run.policies / "v000000" / "manifest.json"):
        path.write_bytes(path.read_bytes().replace(b'"CartPole-v1"', b'"chosen_module:CartPole-v1"'))
    for policy in (run.path, run.policies, run.policies / "v000000"):
        with pytest.raises(NotTrusted, match="if you trust the module chosen_module"):
            evaluate(policy, episodes=1)
    Path("chosen_module.py").write_text("")
    assert evaluate(run.path, episodes=1, trust=TrustOptions(trusted_modules=("chosen_module",))).episodes == 1


def test_the_environments_own_arguments_are_those_of_the_run(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (f"--policy={run.policies / 'v000001'}", '--env-kwargs={"max_episode_steps": 3}', "--episodes=2")
    assert _json(capsys, *flags)["lengths"] == [3, 3]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env=Acrobot-v1", "--policy={policy}"], "the policy does not fit Acrobot-v1"),
        (["--env=CartPol-v1", "--policy={policy}"], "did you mean CartPole-v1"),
        ([f"--env={ENV}", "--policy={policy}-not-there"], "holds no policy version"),
        ([f"--env={ENV}", "--run-dir=empty"], "holds no policy version"),
        ([f"--env={ENV}", "--run-dir=x", "--policy=y"], "give --run-dir or --policy, not both"),
        ([f"--env={ENV}", "--policy={policy}", "--episodes=0"], "episodes must be at least 1"),
        ([f"--env={ENV}", "--policy={policy}", "--env-kwargs=[]"], "--env-kwargs must be a JSON object"),
        ([f"--env={ENV}", "--policy={policy}", '--env-kwargs={{"wings": 2}}'], "wings"),
        ([f"--env={ENV}"], "no run of CartPole-v1"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: RunDirectory, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(*(flag.format(policy=run.policies / "v000001") for flag in flags)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_an_unknown_program_runs_in_the_sandbox_unless_that_is_turned_off(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.executable", "/no/such/python")
    flags = (f"--env={ENV}", f"--run-dir={run.path}", "--episodes=1")
    assert _evaluate(*flags) == 2
    assert "the sandbox process could not be started" in capsys.readouterr().err
    assert _evaluate(*flags, "--no-sandbox") == 0


def test_a_version_that_does_not_verify_is_not_evaluated(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (run.policies / "v000000").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = (broken / "weights.safetensors").read_bytes()
    (broken / "weights.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert _evaluate(f"--env={ENV}", f"--policy={broken}") == 2
    err = capsys.readouterr().err
    assert "DigestMismatch" in err
    assert err.count("\n") == 1
