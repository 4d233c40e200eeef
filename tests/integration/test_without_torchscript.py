"""The product without TorchScript, which raises at every use, in this project, in torch, and in child processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.conformance.without_torchscript import environment
from shared.store.policy_store import LocalPolicyStore
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.slow

_AGREEMENT = str(REPOSITORY / "scripts" / "conformance" / "importer_agreement.py")
_CALLBACK = """
import sys
from pathlib import Path
from stable_baselines3 import PPO
from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.sb3.publish_callback import PublishCallback
from shared.store.policy_store import LocalPolicyStore

store = LocalPolicyStore(Path(sys.argv[1]))
model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=0)
model.learn(96, callback=PublishCallback(store, every_steps=32, programs=("onnx",), synchronous=True))
with Agent(store, AgentOptions(num_envs=1, deterministic=True, synchronous=True)) as agent:
    agent.reset()
    first = agent.policy
    model.learn(64, callback=PublishCallback(store, every_steps=32, programs=("onnx",), synchronous=True))
    agent.reset()
    print(first.version, agent.policy.version, agent.policy.engine_name)
    observation = model.get_env().reset()
    assert agent.act(observation)[0] == model.predict(observation, deterministic=True)[0][0]
"""


def run(*arguments: str, cwd: Path = REPOSITORY) -> str:
    """Run Python without TorchScript and return its output. Raises AssertionError if it fails."""
    command = [sys.executable, *arguments]
    variables = environment() | {"PYTHONPATH": f"{environment()['PYTHONPATH']}:{REPOSITORY}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    "use",
    ["import torch; torch.jit.script(torch.nn.Linear(1, 1))", "import shared.scripting.scripting"],
    ids=["torch", "this project"],
)
def test_every_use_of_torchscript_raises(use: str) -> None:
    with pytest.raises(AssertionError, match="does not have"):
        run("-c", use)


@pytest.mark.timeout(300)
def test_training_acting_and_evaluation(tmp_path: Path) -> None:
    command, flags = ("-m", "rl_hotswap.cli.main"), ("--env=CartPole-v1", f"--run-dir={tmp_path / 'run'}")
    small = ("--envs-per-actor=4", "--batch-steps=256", "--epochs=2", "--hidden-sizes=16", "--total-steps=6000")
    run(*command, "train", *flags, *small, "--target-return=50", "--programs", "onnx", cwd=tmp_path)
    store = LocalPolicyStore(tmp_path / "run" / "policies")
    newest = store.newest()
    assert newest is not None
    assert newest > 1
    assert [program.kind for program in store.open(newest).manifest.programs] == ["onnx"]
    for engine in ("llvm", "onnx"):
        acted = run(*command, "act", *flags, "--episodes=2", f"--engine={engine}", cwd=tmp_path)
        assert f"acts now ({engine}, " in acted
    assert "mean" in run(*command, "evaluate", *flags, "--episodes=2", cwd=tmp_path)
    assert "verifies" in run(*command, "inspect", str(tmp_path / "run" / "policies" / f"v{newest:06d}"), cwd=tmp_path)


def test_a_library_publishes_and_an_agent_reloads(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    first, second, engine = run("-c", _CALLBACK, str(tmp_path)).split()
    assert int(first) < int(second)
    assert engine == "llvm"


@pytest.mark.timeout(1200)
def test_models_of_stable_baselines3_agree() -> None:
    pytest.importorskip("sb3_contrib")
    assert "0 observations disagree" in run(_AGREEMENT, "--libraries", "sb3", "--observations=50", "--programs", "onnx")
