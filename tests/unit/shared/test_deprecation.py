"""Names of the last release."""

from importlib import import_module

import pytest

import rl_hotswap
from learner.networks.acting_policy import ActingPolicy
from shared.store.policy_store import LocalPolicyStore, PolicyStore
from tests.support.idle_policies import idle_policy


@pytest.mark.parametrize(
    ("module", "name", "current"),
    [
        ("shared.policy_store", "LocalPolicyStore", LocalPolicyStore),
        ("shared.policy_store", "PolicyStore", PolicyStore),
        ("shared.policy_store", "open_store", rl_hotswap.open_store),
        ("actor.policy_loader", "load_policy", rl_hotswap.load_policy),
        ("actor.program_trial", "TrialLimits", rl_hotswap.SandboxLimits),
        ("learner.policy_export", "export_module", rl_hotswap.export_module),
        ("learner.policy_export", "publish_policy", rl_hotswap.publish_policy),
        ("learner.acting_policy", "ActingPolicy", ActingPolicy),
    ],
)
def test_old_import_path_warns_and_gives_the_current_object(module: str, name: str, current: object) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{module}.{name} is deprecated; use "):
        assert getattr(import_module(module), name) is current


def test_unknown_name_of_an_old_module_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        import_module("shared.policy_store").nothing  # noqa: B018


def test_an_old_attribute_warns_and_gives_the_current_one(store: LocalPolicyStore) -> None:
    with pytest.warns(DeprecationWarning, match=r"LoadedPolicy\.rung is deprecated; use LoadedPolicy\.engine_name"):
        assert idle_policy(0).rung == "onnx"
    with (
        rl_hotswap.Agent(store, rl_hotswap.AgentOptions(synchronous=True)) as agent,
        pytest.warns(DeprecationWarning, match=r"Agent\.is_scouted is deprecated; use Agent\.is_prefetching") as warned,
    ):
        assert agent.is_scouted is False
    assert warned[0].filename == __file__
