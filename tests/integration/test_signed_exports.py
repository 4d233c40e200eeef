"""Signed exports: every way to publish signs, and every way to load checks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from learner.publishing.policy_publisher import publish_policy
from rl_hotswap.cli.evaluate import COMMAND, EvaluateOptions, main
from shared.errors import ConfigurationError, NotAuthentic
from shared.policy.signing import SigningKey
from shared.process.command_line import run_command
from shared.run.run_config import sign_run_config
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import publish_run
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()


def test_a_module_is_signed_and_checked(tmp_path: Path) -> None:
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(KEY.pem())
    key_file.chmod(0o600)
    directory = export_module(
        nn.Linear(3, 2), (torch.rand(4, 3),), tmp_path / "module", onnx=False, signing_key=key_file
    ).directory
    expected = load_policy(directory, sandbox=None)(torch.ones(1, 3))
    for given in (KEY.public, str(KEY.public), [OTHER_KEY.public, KEY.public]):
        torch.testing.assert_close(load_policy(directory, public_key=given, sandbox=None)(torch.ones(1, 3)), expected)
    with pytest.raises(NotAuthentic, match=f"no signature by {OTHER_KEY.public.short}"):
        load_policy(directory, public_key=OTHER_KEY.public, sandbox=None)
    with pytest.raises(ConfigurationError, match="pass the public key instead"):
        load_policy(directory, public_key=key_file, sandbox=None)
    (directory / "manifest.sig").unlink()
    with pytest.raises(NotAuthentic, match="is not signed"):
        load_policy(directory, public_key=KEY.public, sandbox=None)


@pytest.mark.slow  # an ONNX graph is made
def test_a_policy_is_signed_as_it_is_published(tmp_path: Path) -> None:
    from gymnasium import spaces

    policy = TinyPolicy()
    policy.signature = TINY_SIGNATURE
    store = LocalPolicyStore(tmp_path, fsync=False)
    publish_policy(policy, spaces.Box(-1, 1, (4,)), spaces.Discrete(3), store, signing_key=KEY)
    Authenticity([KEY.public]).open(store, 0)


def test_only_what_was_signed_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = publish_run(tmp_path, "CartPole-v1", onnx=False)

    def evaluate() -> int:
        flags = ["--env=CartPole-v1", f"--run-dir={run.path}", "--episodes=1", f"--public-key={KEY.public}"]
        return run_command(COMMAND, EvaluateOptions, main, flags)

    assert evaluate() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.json is not signed" in line
    config = run.run_config()
    assert config is not None
    run.write_run_config(sign_run_config(config, KEY))
    assert evaluate() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the version is not signed" in line
    version = run.policies / "v000000"
    (version / "manifest.sig").write_bytes(KEY.sign((version / "manifest.json").read_bytes()))
    assert evaluate() == 0
