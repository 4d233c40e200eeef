"""The C++ agent: it follows a store, never acts with a bad version, and is bound through its C interface."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from ctypes import byref, c_double, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import pytest

from scripts.examples.native_cartpole import Options, derive, run
from shared.policy.manifest import TORCHSCRIPT_FILE, ProgramEntry
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import (
    OBSERVATIONS,
    TouchyPolicy,
    eager,
    exporter,
    local_store,
    make_policy,
    publish,
    publish_run,
    publish_seed,
    quiet_noise,
    touchy_exporter,
)
from tests.support.bad_versions import BAD_KINDS, SIGNATURE_KINDS, BadKind, publish_bad
from tests.support.impure_versions import with_statement
from tests.support.native_agent import (
    BAD_INPUT,
    NOT_READY,
    POLICY_FAILED,
    SOURCE,
    NativeAgent,
    NativeError,
    run_command,
    shared_build,
)
from tests.support.signature_attacks import KEY
from tests.support.waiting import until

FAR = OBSERVATIONS + np.array([1e5, 0, 0, 0], np.float32)
# docs/security.md: there is no sandbox in C++, and no strict reader of archives (torch is the only reader).
TRUSTED = (
    "a program that hangs",
    "a program that needs a hundred times the time",
    "a program that eats all memory",
    "a program that crashes",
    "by its weights",
    "a zip bomb",
    "an archive with",
)
# LibTorch removes these statements when it reads the code: their results have no use. See `LIVE`.
DEAD = (
    "a program that reads a file",
    "a program that creates a file",
    "a program that draws numbers",
    "a program that drops out",
    "a program that shows old memory",
)
LIVE = {
    "torch.rand([3])": "rand",
    'torch.from_file("/etc/hostname", False, 4)': "from_file",
    "torch.dropout(inputs[0], 0.5, True)": "dropout",
    "torch.empty([3])": "empty",
    "torch.exponential_(torch.zeros([3]))": "exponential_",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        "CI" not in os.environ and (shutil.which("cmake") is None or shutil.which("g++") is None),
        reason="needs CMake and g++",
    ),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_build(tmp_path_factory)


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    return local_store(tmp_path / "policies")


def adopt(agent: NativeAgent, version: int) -> None:
    """Adopt ``version``; nothing else may become ready before it."""
    assert until(agent.adopt)
    assert agent.version()[0] == version


def follow(agent: NativeAgent, version: int) -> None:
    """Adopt what becomes ready until ``version`` acts."""
    until(lambda: agent.adopt() and agent.version()[0] == version)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"action": "box"},
        {"action": "multi_binary"},
        {"action": "multi_discrete", "masked": True},
        {"action": "discrete_from_5", "network": "lstm", "nested": True, "masked": True},
    ],
    ids=str,
)
def test_it_acts_as_the_policy_does_and_replaces_it(
    build: Path, store: LocalPolicyStore, kind: dict[str, object]
) -> None:
    generator = np.random.default_rng(0)
    manifests = [publish_seed(store, 1, **kind)]
    with NativeAgent(build, store.path) as agent:
        agent.wait()
        for seed in (1, 2, 3):
            follow(agent, seed - 1)
            policy, manifest = make_policy(seed=seed, **kind), manifests[-1]  # type: ignore[arg-type]
            assert agent.version() == (manifest.version, manifest.digest)
            assert [spec.name for spec in agent.tensors(0)] == list(policy.signature.input_names)
            assert [spec.name for spec in agent.tensors(1)] == list(policy.signature.output_names)
            for rows in (3, 1, 3):
                inputs = [
                    np.ones((rows, *spec.shape), spec.dtype)
                    if spec.dtype in ("bool", "uint8")
                    else generator.standard_normal((rows, *spec.shape)).astype(spec.dtype)
                    for spec in policy.signature.inputs
                ]
                version, outputs = agent.act(*inputs)
                assert version == manifest.version
                for found, expected in zip(outputs, eager(policy, *inputs), strict=True):
                    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
            assert not agent.adopt()
            manifests.append(publish_seed(store, seed + 1, **kind))
        # The policy of version 0 acts no more: version 3 is its program with other weights.
        assert "reused=true" in until(lambda: [line for line in agent.lines if "version 3 ready" in line])[0]


def test_it_waits_for_a_store_that_appears_later(build: Path, tmp_path: Path) -> None:
    with NativeAgent(build, tmp_path / "later" / "policies") as agent:
        for call in (
            agent.version,
            lambda: agent.tensors(0),
            lambda: agent.wait(0.01),
            lambda: agent.act(OBSERVATIONS),
        ):
            with pytest.raises(NativeError) as refused:
                call()
            assert refused.value.status == NOT_READY
        publish_seed(local_store(tmp_path / "later" / "policies"), 1)
        agent.wait()
        adopt(agent, 0)


@pytest.fixture(scope="module")
def watched(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NativeAgent, LocalPolicyStore]]:
    """One agent for all bad versions."""
    store = local_store(tmp_path_factory.mktemp("bad") / "policies")
    with NativeAgent(build, store.path) as agent:
        yield agent, store


def _kinds(*outcomes: str) -> list[object]:
    checked = (kind for kind in BAD_KINDS if kind.outcome in outcomes and not _is_trusted(kind))
    return [pytest.param(kind, id=kind.name) for kind in checked]


def _is_trusted(kind: BadKind) -> bool:
    return any(name in kind.name for name in (*TRUSTED, *DEAD))


@pytest.mark.parametrize("kind", _kinds("quarantined", "retried", "not seen"))
def test_a_bad_version_never_acts(watched: tuple[NativeAgent, LocalPolicyStore], kind: BadKind) -> None:
    agent, store = watched
    good = publish_seed(store, 0)
    follow(agent, good.version)
    bad = publish_bad(store, kind)
    if kind.outcome != "not seen":
        said = until(lambda: [line for line in agent.lines if f"version {bad} " in line])
        assert "refused reason=" in said[0], said
    assert not agent.adopt()
    assert agent.act(OBSERVATIONS, quiet_noise(make_policy(), 3))[0] == good.version
    adopt(agent, publish_seed(store, 2).version)


@pytest.mark.parametrize("kind", _kinds("quarantined while acting"))
def test_the_last_good_version_answers_when_one_fails_while_it_acts(
    build: Path, store: LocalPolicyStore, kind: BadKind
) -> None:
    good = publish_seed(store, 0)
    noise = quiet_noise(make_policy(), 3)
    with NativeAgent(build, store.path) as agent:
        adopt(agent, good.version)
        bad = publish_bad(store, kind)
        adopt(agent, bad)
        assert agent.act(OBSERVATIONS, noise)[0] == bad
        version, (action, *_) = agent.act(FAR, noise)
        assert version == good.version
        np.testing.assert_array_equal(action, eager(make_policy(seed=0), FAR, noise)[0])
        assert agent.counts().failed == 1
        until(
            lambda: [line for line in agent.lines if f"version {bad} refused reason=it failed while it acted" in line]
        )
        assert not agent.adopt()


def test_content_that_failed_is_refused_under_another_number_and_the_only_version_fails_with_an_error(
    build: Path, store: LocalPolicyStore
) -> None:
    noise = quiet_noise(make_policy(), 3)
    with NativeAgent(build, store.path) as agent:
        publish(store, TouchyPolicy(nan_above=500.0), touchy_exporter())
        adopt(agent, 0)
        with pytest.raises(
            NativeError, match="version 0 failed, and no other is loaded: output log_prob: nan"
        ) as failed:
            agent.act(FAR, noise)
        assert failed.value.status == POLICY_FAILED
        publish(store, TouchyPolicy(nan_above=500.0), touchy_exporter())
        until(lambda: [line for line in agent.lines if "version 1 refused reason=the same content failed" in line])
        publish(store, TouchyPolicy(), touchy_exporter())
        adopt(agent, 2)
        assert agent.act(FAR, noise)[0] == 2


@pytest.fixture(scope="module")
def keyed(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NativeAgent, LocalPolicyStore]]:
    """One agent with a key."""
    store = local_store(tmp_path_factory.mktemp("signed") / "policies")
    with NativeAgent(build, store.path, keys=[str(KEY.public)]) as agent:
        yield agent, store


@pytest.mark.parametrize("kind", SIGNATURE_KINDS, ids=lambda kind: kind.name)
def test_a_version_that_its_key_did_not_sign_as_it_is_never_acts(
    keyed: tuple[NativeAgent, LocalPolicyStore], kind: BadKind
) -> None:
    agent, store = keyed
    good = publish(store, make_policy(seed=0), exporter(), sign=KEY.sign)
    follow(agent, good.version)
    bad = publish_bad(store, kind, key=KEY)
    said = until(lambda: [line for line in agent.lines if f"version {bad} " in line])
    assert "refused reason=" in said[0], said
    assert not agent.adopt()
    adopt(agent, publish(store, make_policy(seed=2), exporter(), sign=KEY.sign).version)


@pytest.mark.parametrize(("value", "operator"), LIVE.items())
def test_a_program_whose_results_depend_on_more_than_its_inputs_never_acts(
    watched: tuple[NativeAgent, LocalPolicyStore], value: str, operator: str
) -> None:
    agent, store = watched
    policy, made_by = make_policy(seed=1), exporter()
    files, _, _ = made_by.files(policy.state_dict())
    statement = f'if bool(torch.gt(torch.sum({value}), -1.)):\n      ops.prim.RaiseException("drawn")'
    data = with_statement(files[TORCHSCRIPT_FILE], statement)
    entry = ProgramEntry("torchscript", TORCHSCRIPT_FILE, "0" * 64)
    bad = publish(store, policy, made_by, instead={TORCHSCRIPT_FILE: data}, programs=(entry,)).version
    said = until(lambda: [line for line in agent.lines if f"version {bad} " in line])
    assert f"refused reason=replace {operator}, which" in said[0], said


def test_a_program_of_a_trusted_publisher_may_use_other_operators(build: Path, store: LocalPolicyStore) -> None:
    (kind,) = (kind for kind in BAD_KINDS if kind.name == "a program that keeps a counter")
    publish_seed(store, 0)
    bad = publish_bad(store, kind)
    with NativeAgent(build, store.path, trust_programs=True) as agent:
        adopt(agent, bad)
    with NativeAgent(build, store.path) as agent:
        said = until(lambda: [line for line in agent.lines if f"version {bad} " in line])
    assert "replace prim::SetAttr, which is not on the list" in said[0]


def test_invalid_calls_are_statuses_with_a_message(build: Path, store: LocalPolicyStore) -> None:
    publish_seed(store, 1)
    noise = quiet_noise(make_policy(), 3)
    with pytest.raises(NativeError, match="64 lower-case hexadecimal digits") as refused:
        NativeAgent(build, store.path, keys=["ed25519:00"])
    assert refused.value.status == BAD_INPUT
    for arguments in ({"poll_s": -1.0}, {"keys": ["/nowhere"]}):
        with pytest.raises(NativeError):
            NativeAgent(build, store.path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(NativeError, match="store: expected a pointer, found NULL"):
        NativeAgent(build, None)
    with NativeAgent(build, store.path) as agent:
        agent.wait()
        adopt(agent, 0)
        _, outputs = agent.act(OBSERVATIONS, noise)
        for inputs, said in (
            ((OBSERVATIONS,), "expected 2 inputs, found 1"),
            ((OBSERVATIONS, noise[:2]), "input noise: expected 36 bytes of float32, found 24"),
            ((OBSERVATIONS.astype(np.float64), noise), "input observation: expected 48 bytes of float32, found 96"),
        ):
            with pytest.raises(NativeError, match=said):
                agent.act_into(3, inputs, outputs)
        for rows in (0, -1, 2**62):
            with pytest.raises(NativeError, match="rows"):
                agent.act_into(rows, (OBSERVATIONS, noise), outputs)
        with pytest.raises(NativeError, match="output value"):
            agent.act_into(3, (OBSERVATIONS, noise), [*outputs[:2], outputs[2][:1]])
        for name, *rest in (
            ("agent_wait", c_void_p(), c_double(0)),
            ("agent_adopt", c_void_p(), None),
            ("agent_act", agent.handle, c_int64(1), None, c_size_t(0), None, c_size_t(0), None),
            ("agent_counts", agent.handle, None),
            ("agent_tensor", agent.handle, 0, c_size_t(9), byref(ctypes.create_string_buffer(64))),
            ("agent_tensor_count", agent.handle, 7, byref(c_size_t())),
            ("set_threads", 0),
        ):
            with pytest.raises(NativeError) as refused:
                agent.call(name, *rest)
            assert refused.value.status == BAD_INPUT
            assert "\n" not in str(refused.value)
        agent.library.rlhs_agent_close(c_void_p())
        np.testing.assert_array_equal(agent.act(OBSERVATIONS, noise)[1][0], outputs[0])


def test_the_c_header_is_plain_c(tmp_path: Path) -> None:
    source = tmp_path / "use.c"
    source.write_text('#include "rl_hotswap.h"\nint main(void) { return rlhs_last_error() == 0; }\n')
    flags = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    run_command("gcc", *flags, "-I", SOURCE / "include", source)


def test_a_program_of_its_own_builds_on_the_installed_package(
    build: Path, tmp_path: Path, store: LocalPolicyStore
) -> None:
    run_command("cmake", "--install", build, "--prefix", tmp_path / "installed")
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}"
    run_command("cmake", "-S", SOURCE / "examples", "-B", tmp_path / "examples", prefix)
    run_command("cmake", "--build", tmp_path / "examples")
    policies = publish_run(tmp_path / "run", "CartPole-v1").policies
    record = tmp_path / "steps.bin"
    said = run_command(tmp_path / "examples" / "cartpole", policies, 1000, "--record", record)
    assert '"steps": 1000' in said
    found = derive(local_store(policies), record)
    assert (found.steps, found.versions, found.wrong) == (1000, 1, 0)


@pytest.mark.timeout(900)
def test_every_action_of_a_native_actor_is_that_of_its_stamped_version(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For 10 million steps: ``python scripts/examples/native_cartpole.py --steps 10000384 --envs 32``."""
    assert run(Options(steps=200_000, build=build), tmp_path / "run")
    assert "wrong 0" in capsys.readouterr().out


def test_threads_that_hand_policies_over_have_no_race(tmp_path: Path) -> None:
    program = tmp_path / "hand_over"
    flags = ("-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", "-I", SOURCE / "library")
    run_command("g++", *flags, SOURCE / "program" / "hand_over_trial.cpp", "-o", program)
    assert "wrong 0" in run_command(program)
