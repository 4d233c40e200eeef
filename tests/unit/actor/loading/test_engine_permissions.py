"""Engines that need a permission: their order, the error without it, and reloads of weights."""

import numpy as np
import pytest
from torch import nn

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.loading.engine_choice import check_trusted, order_of
from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import CLASS_PATH
from shared.engines.engine import EngineChoice
from shared.engines.importable import ImportablePolicy
from shared.errors import ConfigurationError, NotTrusted
from shared.operators.program_trust import ProgramTrust
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import eager, make_policy, no_spare, publish, quiet_noise
from tests.support.tiny_policy import TINY_SIGNATURE, OneRowAtATime

ALL = ("auto", "llvm", "onnx", "torchscript", "aot", "compile", "eager")


def _exporter(policy: nn.Module, **programs: object) -> PolicyExporter:
    return PolicyExporter(policy, policy.signature, onnx=False, **programs)  # type: ignore[arg-type]


def _agent(store: LocalPolicyStore, engine: EngineChoice, trust: TrustOptions) -> Agent:
    return Agent(store, AgentOptions(num_envs=2, engine=engine, deterministic=True, synchronous=True, trust=trust))


@pytest.fixture(scope="module")
def importable() -> PolicyExporter:
    policy = make_policy()
    return _exporter(policy, importable=ImportablePolicy(CLASS_PATH, policy.arguments))


@pytest.mark.parametrize("choice", ALL)
def test_the_chosen_engine_comes_first_and_compile_is_no_fallback(choice: EngineChoice) -> None:
    order = order_of(choice)
    assert order[0] == ("llvm" if choice == "auto" else choice)
    assert {"llvm", "onnx", "torchscript", "aot", "eager"} <= set(order)
    assert ("compile" in order) == (choice == "compile")
    assert len(set(order)) == len(order)


@pytest.mark.parametrize(
    ("choice", "trust", "message"),
    [
        ("aot", {}, "--trust-native"),
        ("aot", {"trusted_modules": ("learner",)}, "--trust-native"),
        ("compile", {}, "--trust-module"),
        ("eager", {"trust_native": True}, "--trust-module"),
    ],
)
def test_an_engine_without_its_permission_is_a_configuration_error(
    store: LocalPolicyStore, choice: EngineChoice, trust: dict, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _agent(store, choice, TrustOptions(**trust))


@pytest.mark.parametrize("choice", ["auto", "llvm", "torchscript", "onnx"])
def test_the_others_need_no_permission(choice: EngineChoice) -> None:
    check_trusted(choice, ProgramTrust())


def test_eager_is_eager_and_new_weights_take_the_fast_path(store: LocalPolicyStore, importable: PolicyExporter) -> None:
    engines = set()
    with _agent(store, "eager", TrustOptions(trusted_modules=("learner",))) as agent:
        for seed in range(5):
            policy = make_policy(seed=seed)
            publish(store, policy, importable)
            agent.reset()
            assert (agent.policy.engine_name, agent.policy.engine.kind) == ("eager", "eager")
            engines.add(id(agent.policy.engine))
            observation = np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32)
            action, *_ = eager(policy, observation, quiet_noise(policy, 2))
            np.testing.assert_array_equal(agent.act(observation), action)
    assert len(engines) <= 3


def test_auto_imports_no_class_if_another_program_works(store: LocalPolicyStore, importable: PolicyExporter) -> None:
    publish(store, make_policy(), importable)
    engines = EngineFallback(EngineOptions("auto", batch_size=2, trust=ProgramTrust(modules=("learner",))))
    result = engines.load(store.open(0), no_spare)
    assert result.policy.engine_name == "torchscript"
    assert result.describe() is None


def test_a_missing_program_for_the_chosen_engine_is_reported_once(
    store: LocalPolicyStore, importable: PolicyExporter
) -> None:
    for seed in range(2):
        publish(store, make_policy(seed=seed), importable)
    engines = EngineFallback(EngineOptions("aot", batch_size=2, trust=ProgramTrust(native=True)))
    first, second = (engines.load(store.open(version), no_spare) for version in range(2))
    assert first.describe() == "version 0: torchscript taken; aot said: the version has no aot program"
    assert second.describe() is None


def test_native_code_without_permission_is_refused(store: LocalPolicyStore, importable: PolicyExporter) -> None:
    policy = make_policy()
    files, programs, probe = importable.files(policy.state_dict())
    entry = next(program for program in programs if program.kind == "importable")
    native = type(entry)("aot", entry.file, entry.program_digest)  # its file is not read
    publish(store, policy, importable, instead=files, programs=(native,), probe=probe)
    with pytest.raises(NotTrusted, match="--trust-native"):
        EngineFallback(EngineOptions("auto", batch_size=2)).load(store.open(0), no_spare)


@pytest.mark.slow
def test_a_policy_that_torch_compile_rejects_is_not_compiled_again(store: LocalPolicyStore) -> None:
    """torch.compile fails at once, and is not called for the next version."""
    policy = OneRowAtATime().eval()
    policy.signature = TINY_SIGNATURE
    exporter = _exporter(policy, importable=ImportablePolicy("tests.support.tiny_policy:OneRowAtATime"))
    for _ in range(2):
        publish(store, policy, exporter)
    engines = EngineFallback(EngineOptions("compile", batch_size=2, trust=ProgramTrust(modules=("tests",))))
    for version in range(2):
        result = engines.load(store.open(version), no_spare)
        assert result.policy.engine_name == "torchscript"
        assert "compile said: the policy raised" in str(result.describe())


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["aot", "compile"])
def test_compiled_engines_act_and_take_new_weights(store: LocalPolicyStore, choice: EngineChoice) -> None:
    first = make_policy(network="lstm")
    definition = ImportablePolicy(CLASS_PATH, first.arguments)
    exporter = _exporter(first, importable=definition, aot=choice == "aot")
    packages = set()
    with _agent(store, choice, TrustOptions(trusted_modules=("learner",), trust_native=True)) as agent:
        for seed in range(4):
            policy = make_policy(network="lstm", seed=seed)
            manifest = publish(store, policy, exporter)
            packages |= {program.program_digest for program in manifest.programs if program.kind == "aot"}
            agent.reset()
            assert (agent.policy.version, agent.policy.engine_name) == (seed, choice)
            state = [np.zeros((2, 4), np.float32)] * 2
            for step in range(3):
                observation = np.random.default_rng(step).normal(size=(2, 4)).astype(np.float32)
                action, _, _, *state = eager(policy, observation, *state, quiet_noise(policy, 2))
                np.testing.assert_array_equal(agent.act(observation), action)
                for mine, expected in zip(agent.state, state, strict=True):
                    np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert len(packages) == (choice == "aot"), "one package serves every version"
