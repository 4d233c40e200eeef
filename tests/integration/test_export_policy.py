"""``rl-hotswap export``: policies published from the command line, and agents that act with them."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.importers.cleanrl import load_agent
from rl_hotswap.cli.export import COMMAND, ExportOptions, main
from shared.errors import ConfigurationError, NotTrusted, WeightsError
from shared.process.command_line import CANNOT, run_command
from shared.store.policy_store import LocalPolicyStore
from tests.support.paths import REPOSITORY
from tests.support.tiny_policy import TinyPolicy

TINY = "tests.support.tiny_policy:TinyPolicy"
ENV_ID = "CartPole-v1"
TARGET = ("--env", ENV_ID, "--store", "x")
ROWS = 8


class LogitsAndValue(nn.Module):
    """A user's network for CartPole."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.body = nn.Linear(4, hidden)
        self.heads = nn.Linear(hidden, 3)

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        heads = self.heads(torch.tanh(self.body(observation)))
        return {"logits": heads[:, :2], "value": heads[:, 2]}


def run(*arguments: str) -> int:
    return run_command(COMMAND, ExportOptions, main, arguments)


def acted(store: Path, observation: np.ndarray) -> np.ndarray:
    with Agent(LocalPolicyStore(store), AgentOptions(num_envs=ROWS, deterministic=True, synchronous=True)) as agent:
        agent.reset()
        return np.asarray(agent.act(observation))


@pytest.fixture
def observation() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    sb3 = pytest.importorskip("stable_baselines3")
    from scripts.conformance.agreement import stir

    model = sb3.PPO("MlpPolicy", ENV_ID, device="cpu", seed=0)
    stir(model.policy, 0)
    model.save(tmp_path / "model.zip")
    return model, tmp_path / "model.zip"


@pytest.mark.parametrize("how", ["--trust-pickle", f"--env={ENV_ID}"])
def test_a_saved_model_is_published(saved: tuple[Any, Path], tmp_path: Path, observation: np.ndarray, how: str) -> None:
    model, file = saved
    assert run("--sb3", str(file), "--store", str(tmp_path / "policies"), how) == 0
    expected, _ = model.predict(observation, deterministic=True)
    assert np.array_equal(acted(tmp_path / "policies", observation), expected)


def test_pickles_are_read_only_with_trust_pickle(saved: tuple[Any, Path], tmp_path: Path) -> None:
    _, file = saved
    with pytest.raises(ConfigurationError, match="--trust-pickle to read it whole"):
        main(ExportOptions(source=str(file), store=str(tmp_path / "policies")))
    with pytest.raises(NotTrusted, match="--trust-pickle"):
        main(
            ExportOptions(
                source=str(file), store=str(tmp_path / "policies"), env=ENV_ID, vec_normalize=tmp_path / "v.pkl"
            )
        )
    assert not (tmp_path / "policies").exists()


@pytest.mark.slow
def test_normalisation_goes_into_the_artifact(tmp_path: Path, observation: np.ndarray) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    env = vec_env.VecNormalize(vec_env.DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    env.obs_rms.update(np.random.default_rng(0).normal(2, 3, (100, 3)))
    model = sb3.SAC("MlpPolicy", env, device="cpu", seed=0, buffer_size=16)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vec.pkl"))
    files = ("--sb3", str(tmp_path / "model.zip"), "--vec-normalize", str(tmp_path / "vec.pkl"))
    assert run(*files, "--store", str(tmp_path / "policies"), "--env", "Pendulum-v1", "--trust-pickle") == 0
    expected, _ = model.predict(env.normalize_obs(observation[:, :3]), deterministic=True)
    np.testing.assert_allclose(acted(tmp_path / "policies", observation[:, :3]), expected, rtol=1e-5, atol=1e-5)


def test_a_class_and_its_weights_are_published(tmp_path: Path, observation: np.ndarray) -> None:
    policy = LogitsAndValue(hidden=5)
    torch.save(policy.state_dict(), tmp_path / "w.pt")
    module = ("--module", f"{__name__}:LogitsAndValue", "--arguments", '{"hidden": 5}')
    module += ("--weights", str(tmp_path / "w.pt"))
    assert run(*module, "--store", str(tmp_path / "policies"), "--env", ENV_ID) == 0
    with torch.no_grad():
        expected = policy(torch.from_numpy(observation))["logits"].argmax(-1)
    assert np.array_equal(acted(tmp_path / "policies", observation), expected.numpy())


def test_an_agent_of_a_cleanrl_script_is_published(tmp_path: Path, observation: np.ndarray) -> None:
    cases = REPOSITORY / "scripts" / "conformance" / "cleanrl_cases.py"
    env = gymnasium.make(ENV_ID)
    agent: Any = load_agent(f"{cases}:Agent", None, (env.observation_space, env.action_space), {})
    torch.save(agent.state_dict(), tmp_path / "agent.pt")
    source = ("--from", f"{cases}:Agent", "--weights", str(tmp_path / "agent.pt"))
    assert run(*source, "--store", str(tmp_path / "policies"), "--env", ENV_ID) == 0
    with torch.no_grad():
        expected = agent.actor(torch.from_numpy(observation)).argmax(-1)
    assert np.array_equal(acted(tmp_path / "policies", observation), expected.numpy())


def torchrl_actor() -> nn.Module:
    from tensordict.nn import TensorDictModule
    from torchrl.modules import QValueActor

    found: nn.Module = QValueActor(
        TensorDictModule(nn.Linear(4, 2), ["observation"], ["action_value"]), action_space="categorical"
    )
    return found


@pytest.mark.slow
def test_a_module_of_torchrl_is_published_by_its_function(tmp_path: Path, observation: np.ndarray) -> None:
    pytest.importorskip("torchrl", reason='needs pip install "rl-hotswap[torchrl]"')
    actor: Any = torchrl_actor()
    torch.save(actor.state_dict(), tmp_path / "actor.pt")
    module = ("--module", f"{__name__}:torchrl_actor", "--weights", str(tmp_path / "actor.pt"))
    assert run(*module, "--store", str(tmp_path / "policies"), "--env", ENV_ID) == 0
    with torch.no_grad():
        expected = actor.module[0].module(torch.from_numpy(observation)).argmax(-1)
    assert np.array_equal(acted(tmp_path / "policies", observation), expected.numpy())


def test_any_module_goes_into_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = '{"in1_features": 2, "in2_features": 3, "out_features": 4}'
    module = ("--module", "torch.nn:Bilinear", "--arguments", arguments)
    directory = tmp_path / "bilinear"
    examples = ("--example", "float32[5,2]", "float32[5,3]", "--directory", str(directory), "--how", "trace")
    assert run(*module, *examples) == 0
    assert "trace: taken" in capsys.readouterr().out
    assert (directory / "manifest.json").is_file()
    assert run(*module, *examples[:-1], "guess") == CANNOT
    assert "--how: expected one of script" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give either --from SOURCE, or --module"),
        (("--sb3", "m.zip", "--module", "a:B"), "give either --from SOURCE, or --module"),
        (("--module", "tests.support.tiny_policy", *TARGET), "expected a class path like pkg.mod:Class"),
        (("--module", f"{TINY}Nope", *TARGET), "cannot be imported: AttributeError"),
        (("--module", "os:sep", *TARGET), "no subclass of torch.nn.Module, and no function that returns one"),
        (("--module", "os:get_exec_path", *TARGET), "returns no torch.nn.Module: found a list"),
        (("--from", "m.zip", "--weights", "w.pt", *TARGET), "leave out --weights"),
        (("--from", "agent.py:Agent", *TARGET), "there is no file agent.py"),
        (("--from", "agent.py:Agent", "--store", "x"), "expected --env ID"),
        (("--module", TINY, "--arguments", "[1]", *TARGET), "expected a JSON object"),
        (("--module", TINY, "--arguments", '{"wide": 1}', *TARGET), "cannot be constructed"),
        (("--module", TINY, "--env", "CartPol-v1", "--store", "x"), "did you mean"),
        (("--module", TINY, "--example", "float[3", "--directory", "x"), 'expected a tensor like "float32'),
        (("--module", TINY), "expected --store DIR"),
        (("--module", TINY, "--env", ENV_ID, "--store", "x", "--how", "trace"), "leave out --how"),
        (("--sb3", "m.zip", "--env", ENV_ID, "--store", "x", "--how", "trace"), "leave out --how"),
        (("--module", TINY, "--env", ENV_ID, "--store", "x", "--directory", "y"), "leave out --directory"),
        (("--module", TINY, "--example", "float32[3,4]", "--directory", "x", "--env", ENV_ID), "leave out --env"),
        (("--module", TINY, "--example", "float32[3,4]", "--how", "trace", "--aot"), "leave out --aot"),
        (("--weights", "nowhere.pt", "--env", ENV_ID, "--store", "x"), "there is no file nowhere.pt"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == CANNOT
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_weights_are_read_without_pickle(tmp_path: Path) -> None:
    torch.save(TinyPolicy(), tmp_path / "whole.pt")
    options = ExportOptions(module=TINY, weights=tmp_path / "whole.pt", env=ENV_ID, store=str(tmp_path / "policies"))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        main(options)
    torch.save({"model": TinyPolicy().state_dict()}, tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match="save the state dict alone"):
        main(options)
    torch.save(TinyPolicy(3).state_dict(), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match=r"does not fit tests\.support\.tiny_policy:TinyPolicy"):
        main(options)
