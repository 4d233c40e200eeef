"""``from_rllib``: modules and checkpoints of RLlib's new API stack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray", reason='needs pip install "rl-hotswap[rllib]"')

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.connectors.env_to_module import EnvToModulePipeline, MeanStdFilter
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline, NormalizeAndClipActions

from learner.importers.agreement import quiet_inputs
from learner.importers.rllib import RLlibModule, from_rllib, load_checkpoint
from scripts.conformance.rllib_cases import BOX, VECTOR, RLlibCase, cases
from shared.errors import ConfigurationError, NotTrusted
from shared.policy.probe import make_inputs, run_policy


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def outputs(policy: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    found = run_policy(policy.eval(), policy.signature, inputs)
    return dict(zip(policy.signature.output_names, found, strict=True))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_actions_without_noise_are_those_of_rllib(case: RLlibCase) -> None:
    subject = case.subject(0)
    inputs = quiet_inputs(subject.policy, 64)
    found = outputs(subject.policy, inputs)
    expected = subject.predictor()(inputs[0], None, np.ones(64, np.bool_))
    np.testing.assert_allclose(found.get("env_action", found["action"]), expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected.round(4), axis=0)) > 1


@pytest.mark.parametrize("algorithm", [PPOConfig, SACConfig])
def test_drawn_actions_have_rllibs_log_probability(algorithm: Any) -> None:
    module = RLlibCase(algorithm, BOX).make(0)
    policy = from_rllib(module)
    inputs = make_inputs(policy.signature, 64, seed=0)
    found = outputs(policy, inputs)
    with torch.no_grad():
        logits = module.forward_exploration({"obs": torch.from_numpy(inputs[0])}, t=0)["action_dist_inputs"]
    distribution = module.get_exploration_action_dist_cls().from_logits(logits)
    expected = distribution.logp(torch.from_numpy(found["action"])).numpy()
    inside = (np.abs(found["action"]) < 0.99).all(1) | (algorithm is PPOConfig)
    np.testing.assert_allclose(found["log_prob"][inside], expected[inside], rtol=1e-3, atol=1e-3)


def test_a_checkpoint_is_read_only_with_trust(tmp_path: Path) -> None:
    case = RLlibCase(PPOConfig, BOX)
    module = case.make(0)
    module.save_to_path(tmp_path / "module")
    with pytest.raises(NotTrusted, match="--trust-pickle"):
        from_rllib(tmp_path / "module")
    found, expected = from_rllib(tmp_path / "module", trust_pickle=True), from_rllib(module)
    inputs = make_inputs(found.signature, 16, seed=0)
    for name, array in outputs(found, inputs).items():
        np.testing.assert_array_equal(array, outputs(expected, inputs)[name])


def test_the_connectors_of_an_algorithm_are_read(tmp_path: Path) -> None:
    module = RLlibCase(PPOConfig, BOX).make(0)
    module.save_to_path(tmp_path / "learner_group" / "learner" / "rl_module" / "default_policy")
    (tmp_path / "class_and_ctor_args.pkl").write_bytes(b"")
    clipping = NormalizeAndClipActions(normalize_actions=False, clip_actions=True)
    pipeline = ModuleToEnvPipeline(VECTOR, BOX, connectors=[clipping])
    pipeline.save_to_path(tmp_path / "env_runner" / "module_to_env_connector", state={})
    loaded = load_checkpoint(tmp_path, trust_pickle=True)
    assert not loaded.normalizes_actions
    inputs = quiet_inputs(from_rllib(loaded))
    clipped = outputs(from_rllib(loaded), inputs)
    np.testing.assert_allclose(clipped["env_action"], clipped["action"].clip(BOX.low, BOX.high))
    observing = EnvToModulePipeline(VECTOR, BOX, connectors=[MeanStdFilter()])
    observing.save_to_path(tmp_path / "env_runner" / "env_to_module_connector", state={})
    with pytest.raises(ConfigurationError, match="do in a wrapper of the environment what MeanStdFilter does"):
        load_checkpoint(tmp_path, trust_pickle=True)


def test_other_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pass a directory of algorithm\.save_to_path"):
        from_rllib(tmp_path, trust_pickle=True)
    (tmp_path / "class_and_ctor_args.pkl").write_bytes(b"no pickle")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        from_rllib(tmp_path, trust_pickle=True)
    with pytest.raises(ConfigurationError, match="pass a TorchRLModule or a checkpoint directory; found object"):
        from_rllib(RLlibModule(object()))  # type: ignore[arg-type]
