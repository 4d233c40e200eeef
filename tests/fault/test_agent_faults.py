"""An agent with bad versions and with stores that fail. The tests drive the background work themselves."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from actor.agent import Agent
from shared.engines.engine import EngineChoice
from shared.errors import EnvironmentFailed, PolicyUnavailable, StoreUnavailable, VersionNotFound
from shared.policy.manifest import PROBE_FILE, TORCHSCRIPT_FILE, WEIGHTS_FILE, ProgramEntry
from shared.policy.weights import decode_weights, encode_weights
from shared.store.policy_store import LocalPolicyStore, Retention, VersionFiles, version_name
from shared.store.version_directory import VersionDirectory
from tests.support.agent_policies import (
    OBSERVATIONS,
    MakeAgent,
    TouchyPolicy,
    eager,
    exporter,
    local_store,
    make_policy,
    publish,
    publish_seed,
    quiet_noise,
    touchy_exporter,
)
from tests.support.captured_logs import CapturedLogs
from tests.support.waiting import until

TOUCHING = OBSERVATIONS + np.array([1e5, 0, 0, 0], np.float32)

_READ = VersionDirectory.read


def _flip_byte(store: LocalPolicyStore, version: int, name: str, at: int = -5) -> None:
    path = store.path / version_name(version) / name
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def _good_then(store: LocalPolicyStore, agent: Agent) -> None:
    publish_seed(store, 0)
    agent.reset()
    assert agent.policy.version == 0


@pytest.fixture
def agent(store: LocalPolicyStore, make_agent: MakeAgent) -> Agent:
    """An agent that acts with version 0."""
    agent = make_agent()
    _good_then(store, agent)
    return agent


class TestBadVersions:
    @pytest.mark.parametrize("name", [WEIGHTS_FILE, PROBE_FILE, "manifest.json"])
    def test_corrupt_version_keeps_the_acting_policy(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent, name: str
    ) -> None:
        publish_seed(store, 1)
        _flip_byte(store, 1, name, at=0 if name == "manifest.json" else -5)
        for _ in range(3):
            agent.reset()
            agent.act(OBSERVATIONS)
        assert agent.policy.version == 0
        (line,) = captured_logs.lines_with("quarantined reason=")
        assert line.startswith("ERROR | actor.agent:reset - policy version 1 quarantined reason=")
        assert ("not a manifest" if name == "manifest.json" else f"{name}: expected SHA-256") in line
        assert store.quarantined() == {}, "a bad copy says nothing about the version"
        publish_seed(store, 2)
        agent.reset()
        assert agent.policy.version == 2

    def test_the_standby_acts_though_a_later_version_had_wrong_weights(
        self, store: LocalPolicyStore, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Large weights are loaded into an engine before they are verified: the standby's, if there is no other."""
        monkeypatch.setattr("shared.store.version_files._HASHED_APART_BYTES", 0)
        agent = make_agent()
        for seed in range(4):
            publish_seed(store, seed)
            agent.reset()
        publish_seed(store, 4)
        agent._loader.load_pending()
        publish_seed(store, 5)
        _flip_byte(store, 5, WEIGHTS_FILE)
        agent._loader.load_pending()
        agent.reset()
        assert agent.policy.version == 4
        expected = eager(make_policy(seed=4), OBSERVATIONS, quiet_noise(make_policy(), 3))
        np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected[0])

    def test_a_restarted_actor_knows_what_was_quarantined_while_acting(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs, tmp_path: Path
    ) -> None:
        """Only acting shows the fault: without the cache the version would act after each restart."""
        agent = make_agent(cache_directory=tmp_path / "cache", num_envs=None)
        publish(store, TouchyPolicy(seed=0), touchy_exporter())
        agent.reset()
        bad = publish(store, TouchyPolicy(seed=1, nan_above=5e4), touchy_exporter())
        agent.reset()
        assert agent.policy.version == bad.version
        agent.act(TOUCHING[0])
        assert agent.policy.version == 0
        agent.reset()
        for started_again in range(2):
            again = make_agent(cache_directory=tmp_path / "cache" if started_again else tmp_path / "elsewhere")
            again.reset()
            assert again.policy.version == (0 if started_again else bad.version)
        assert captured_logs.has(
            f"version {bad.version} refused reason=content is quarantined: PolicyOutputError",
            "(found by an earlier actor on this machine)",
        )

    def test_a_refusal_that_depends_on_the_options_is_not_cached(
        self, store: LocalPolicyStore, make_agent: MakeAgent, tmp_path: Path
    ) -> None:
        """The actor was started for another environment. An actor for this one adopts the version."""
        agent = make_agent(cache_directory=tmp_path / "cache")
        _good_then(store, agent)
        other = publish_seed(store, 1, action="box")
        agent.reset()
        assert (agent.policy.version, other.digest in store.quarantined()) == (0, True)
        again = make_agent(cache_directory=tmp_path / "cache", follow=f"pinned:{other.version}")
        again.reset()
        assert again.policy.version == other.version

    def test_an_actor_acts_without_a_usable_cache_directory(
        self, store: LocalPolicyStore, make_agent: MakeAgent, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        agent = make_agent(cache_directory=tmp_path / "file")
        publish(store, TouchyPolicy(seed=0), touchy_exporter())
        agent.reset()
        publish(store, TouchyPolicy(seed=1, nan_above=5e4), touchy_exporter())
        agent.reset()
        agent.act(TOUCHING)
        agent.reset()
        assert agent.policy.version == 0

    def test_a_corrupt_program_is_refused_also_by_an_actor_that_has_it_in_memory(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        seasoned, fresh = make_agent(), make_agent()
        for seed in range(3):
            publish_seed(store, seed)
            seasoned.reset()
        publish_seed(store, 3)
        _flip_byte(store, 3, TORCHSCRIPT_FILE)
        seasoned.reset()
        fresh.reset()
        assert (seasoned.policy.version, fresh.policy.version) == (2, 2)

    @pytest.mark.parametrize(("engine", "program"), [("torchscript", "policy.ts"), ("onnx", "policy.onnx")])
    def test_a_program_is_read_again_only_if_it_changed(
        self,
        store: LocalPolicyStore,
        make_agent: MakeAgent,
        monkeypatch: pytest.MonkeyPatch,
        engine: EngineChoice,
        program: str,
    ) -> None:
        read: list[str] = []
        monkeypatch.setattr(
            VersionDirectory, "read", lambda self, name, *meanwhile: read.append(name) or _READ(self, name, *meanwhile)
        )
        agent = make_agent(engine=engine)
        for seed in range(4):
            publish_seed(store, seed, onnx=True)
            agent.reset()
            assert agent.policy.version == seed
            assert agent.policy.engine_name == engine
            expected = eager(make_policy(seed=seed), OBSERVATIONS, quiet_noise(make_policy(), 3))
            np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected[0])
            first = read.index(program)
            assert program not in read[first + 2 :], "read for the check of operators and for the engine, once each"
        publish_seed(store, 4, network="lstm")
        agent.reset()
        assert agent.policy.engine_name == "torchscript"
        assert read[-1] == TORCHSCRIPT_FILE

    def test_a_program_that_does_not_match_its_digest_is_refused(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
    ) -> None:
        seasoned, fresh = make_agent(engine="onnx"), make_agent(engine="onnx")
        publish_seed(store, 0, onnx=True)
        seasoned.reset()
        publish_seed(store, 1, onnx=True)
        for name in ("policy.onnx", TORCHSCRIPT_FILE):
            _flip_byte(store, 1, name, at=200)
        seasoned.reset()
        fresh.reset()
        assert (seasoned.policy.version, fresh.policy.version) == (0, 0)
        assert "policy.onnx: expected SHA-256" in captured_logs.lines_with("quarantined reason=")[0]

    @pytest.mark.parametrize("spoilt", [WEIGHTS_FILE, "policy.onnx"])
    def test_a_bad_first_version_does_not_affect_later_ones_of_the_same_program(
        self, store: LocalPolicyStore, make_agent: MakeAgent, spoilt: str
    ) -> None:
        """Its weights have other dtypes, or its file is no graph although the manifest has the digest of a good one."""
        files, programs, _ = exporter(onnx=True).files(make_policy(seed=1).state_dict())
        doubled = {name: array.astype(np.float64) for name, array in decode_weights(files[WEIGHTS_FILE]).items()}
        instead = encode_weights(doubled) if spoilt == WEIGHTS_FILE else b"no graph"
        publish(store, make_policy(seed=1), exporter(onnx=True), instead={spoilt: instead}, programs=programs[1:])
        agent = make_agent(engine="onnx")
        with pytest.raises(PolicyUnavailable):
            agent.reset()
        publish_seed(store, 2, onnx=True)
        agent.reset()
        assert (agent.policy.version, agent.policy.engine_name) == (1, "onnx")

    def test_weights_that_are_not_finite(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
    ) -> None:
        policy = make_policy(seed=1)
        files, _, _ = exporter().files(policy.state_dict())
        weights = {name: array.copy() for name, array in decode_weights(files[WEIGHTS_FILE]).items()}
        next(iter(weights.values())).flat[0] = np.nan
        bad = publish(store, policy, exporter(), instead={WEIGHTS_FILE: encode_weights(weights)})
        agent.reset()
        assert agent.policy.version == 0
        (line,) = captured_logs.lines_with("quarantined reason=")
        assert "WeightsError" in line
        assert "not finite" in line
        assert "not finite" in store.quarantined()[bad.digest]

    def test_weights_of_another_network(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
    ) -> None:
        other, _, _ = exporter(action="multi_discrete").files(make_policy(action="multi_discrete").state_dict())
        publish(store, make_policy(seed=1), exporter(), instead={WEIGHTS_FILE: other[WEIGHTS_FILE]})
        agent.reset()
        assert agent.policy.version == 0
        assert "WeightsError" in captured_logs.lines_with("quarantined reason=")[0]

    @pytest.mark.parametrize("seasoned", [False, True])
    def test_a_probe_that_the_program_does_not_answer(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs, seasoned: bool
    ) -> None:
        agent = make_agent()
        for seed in range(4 if seasoned else 1):
            publish_seed(store, seed)
            agent.reset()
        acting = agent.policy
        lie, _, _ = exporter().files(make_policy(seed=8).state_dict())
        bad = publish(store, make_policy(seed=9), exporter(), instead={PROBE_FILE: lie[PROBE_FILE]})
        agent.reset()
        assert agent.policy is acting
        assert "ProbeMismatch" in captured_logs.lines_with("quarantined reason=")[0]
        assert "ProbeMismatch" in store.quarantined()[bad.digest]
        assert agent._manager.engines_alive() <= 3

    def test_a_version_of_another_environment(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
    ) -> None:
        publish_seed(store, 1, action="box")
        agent.reset()
        assert agent.policy.version == 0
        assert "made for another environment: expected action" in captured_logs.lines_with("quarantined reason=")[0]

    def test_a_version_of_another_environment_is_refused_as_the_first_one_too(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        publish_seed(store, 1, action="box")
        agent = make_agent(signature=make_policy().signature)
        with pytest.raises(PolicyUnavailable, match="made for another environment"):
            agent.reset()

    def test_a_manifest_that_names_another_program(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
    ) -> None:
        programs = (ProgramEntry("torchscript", TORCHSCRIPT_FILE, "0" * 64),)
        publish(store, make_policy(seed=1), exporter(), programs=programs)
        agent.reset()
        assert agent.policy.version == 0
        assert "ProgramError" in captured_logs.lines_with("quarantined reason=")[0]

    def test_the_same_content_under_another_number_is_not_tried_again(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
    ) -> None:
        lie, _, _ = exporter().files(make_policy(seed=8).state_dict())
        for _ in range(2):
            publish(store, make_policy(seed=9), exporter(), instead={PROBE_FILE: lie[PROBE_FILE]})
            agent.reset()
        assert agent.policy.version == 0
        assert "policy version 2 refused reason=content is quarantined" in captured_logs.lines[-1]

    def test_the_newest_version_that_verifies_acts(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        for seed in range(4):
            publish_seed(store, seed)
        for version in (2, 3):
            _flip_byte(store, version, WEIGHTS_FILE)
        agent = make_agent()
        agent.reset()
        assert agent.policy.version == 1

    def test_a_pin_never_falls_back(self, store: LocalPolicyStore, make_agent: MakeAgent) -> None:
        for seed in range(3):
            publish_seed(store, seed)
        _flip_byte(store, 1, WEIGHTS_FILE)
        agent = make_agent(follow="pinned:1")
        with pytest.raises(PolicyUnavailable, match=r"following pinned:1 .* version 1 \(quarantined\): DigestMismatch"):
            agent.reset()

    def test_if_no_version_can_act_the_error_has_each_with_its_reason(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        for seed in range(3):
            publish_seed(store, seed)
        _flip_byte(store, 0, WEIGHTS_FILE)
        _flip_byte(store, 1, PROBE_FILE)
        (store.path / version_name(2) / WEIGHTS_FILE).unlink()
        agent = make_agent()
        with pytest.raises(PolicyUnavailable) as caught:
            agent.reset()
        message = str(caught.value)
        assert message.startswith(f"nothing to act with after 0 s, following newest in {store}: ")
        assert "version 2 (1 attempts, will be tried again): TransientLoadError: " in message
        assert "version 1 (quarantined): DigestMismatch: " in message
        assert "version 0 (quarantined): DigestMismatch: " in message


class TestEngineFallback:
    def test_torchscript_takes_over_from_an_onnx_program_that_does_not_load(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
    ) -> None:
        policy = make_policy(seed=1)
        files, programs, _ = exporter(onnx=True).files(policy.state_dict())
        broken = files["policy.onnx"][:-20]
        publish(store, policy, exporter(onnx=True), instead={"policy.onnx": broken}, programs=programs)
        agent = make_agent(engine="onnx")
        agent.reset()
        assert agent.policy.engine_name == "torchscript"
        (line,) = captured_logs.lines_with("taken")
        assert line.startswith("WARNING | actor.agent:reset - version 0: torchscript taken; onnx said: ")

    def test_an_engine_that_misses_the_probe_is_not_used(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
    ) -> None:
        """A graph of another policy loads with these weights and computes something else."""
        policy = make_policy(seed=1)
        other = exporter(onnx=True).files(policy.state_dict())[0]["policy.onnx"].replace(b"Tanh", b"Sinh")
        from shared.policy.program_digest import program_digest

        _, programs, _ = exporter(onnx=True).files(policy.state_dict())
        programs = tuple(
            ProgramEntry("onnx", "policy.onnx", program_digest("onnx", other)) if program.kind == "onnx" else program
            for program in programs
        )
        publish(store, policy, exporter(onnx=True), instead={"policy.onnx": other}, programs=programs)
        agent = make_agent(engine="onnx")
        agent.reset()
        assert agent.policy.engine_name == "torchscript"
        assert captured_logs.has("torchscript taken; onnx said: ", "rows differ by more than")


class TestTransientFaults:
    def test_a_version_whose_file_comes_late_is_retried(
        self, store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
    ) -> None:
        publish_seed(store, 1)
        weights = store.path / version_name(1) / WEIGHTS_FILE
        weights.rename(store.path / "elsewhere")
        agent.reset()
        assert agent.policy.version == 0
        assert captured_logs.lines_with(
            "WARNING | actor.agent:reset - policy version 1 will be retried reason=TransientLoadError"
        )
        (store.path / "elsewhere").rename(weights)
        until(lambda: agent.adopt().version == 1)
        assert store.quarantined() == {}

    def test_a_version_that_was_removed_meanwhile_is_passed_over(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        class Losing(LocalPolicyStore):
            def open(self, version: int) -> VersionFiles:
                if version == 0:
                    publish_seed(self, 1)
                    self.sweep(Retention(keep_newest=1))
                return super().open(version)

        publish_seed(store, 0)
        agent = make_agent(store=Losing(store.path, fsync=False))
        agent.reset()
        assert agent.policy.version == 1

    def test_a_store_that_does_not_answer_stops_nothing(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
    ) -> None:
        class Moody(LocalPolicyStore):
            fault: Exception | None = None

            def versions(self) -> list[int]:
                if self.fault is not None:
                    raise self.fault
                return super().versions()

        moody = Moody(store.path, fsync=False)
        agent = make_agent(store=moody)
        _good_then(store, agent)
        moody.fault = StoreUnavailable("could not list it: the mount is gone")
        publish_seed(store, 1)
        for _ in range(3):
            agent.reset()
            agent.act(OBSERVATIONS)
        assert len(captured_logs.lines_with("retrying error=could not list it: the mount is gone")) == 1
        moody.fault = None
        until(lambda: agent.adopt().version == 1)
        assert captured_logs.has("policy store answers again")

    def test_a_store_that_is_removed_and_comes_back(
        self, store: LocalPolicyStore, agent: Agent, tmp_path: Path
    ) -> None:
        store.path.rename(tmp_path / "away")
        agent.reset()
        agent.act(OBSERVATIONS)
        assert agent.policy.version == 0
        (tmp_path / "away").rename(store.path)
        publish_seed(store, 1)
        agent.reset()
        assert agent.policy.version == 1

    def test_an_older_version_never_acts_after_a_newer_one(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        """It does not matter what the store shows later."""
        agent = make_agent()
        for seed in range(3):
            publish_seed(store, seed)
        agent.reset()
        shutil.rmtree(store.path)
        for seed in range(2):
            publish_seed(local_store(store.path), seed)
        agent.reset()
        assert agent.policy.version == 2
        for seed in (2, 3):
            publish_seed(local_store(store.path), seed)
        agent.reset()
        assert agent.policy.version == 3

    def test_a_version_that_raises_any_error_does_not_stop_the_next(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
    ) -> None:
        class Surprising(LocalPolicyStore):
            def open(self, version: int) -> VersionFiles:
                if version == 1:
                    raise ZeroDivisionError("who would have thought")
                return super().open(version)

        agent = make_agent(store=Surprising(store.path, fsync=False), synchronous=False, deadline_s=60.0)
        _good_then(store, agent)
        publish_seed(store, 1)
        until(lambda: agent.adopt() and captured_logs.has("ZeroDivisionError: who would have thought"))
        publish_seed(store, 2)
        until(lambda: agent.adopt().version == 2)

    def test_a_store_that_takes_no_quarantine(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
    ) -> None:
        class ReadOnly(LocalPolicyStore):
            def quarantine(self, digest: str, reason: str, by: str) -> None:
                raise StoreUnavailable("read-only file system")

        agent = make_agent(store=ReadOnly(store.path, fsync=False))
        _good_then(store, agent)
        publish_seed(store, 1, action="box")
        agent.reset()
        assert agent.policy.version == 0
        agent.reset()
        assert captured_logs.has("quarantine not shared", "read-only file system")


class TestFailuresWhileActing:
    @pytest.mark.parametrize("touch", ["nan_above", "illegal_above"])
    def test_the_last_good_version_answers_that_same_step(
        self, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs, touch: str
    ) -> None:
        agent = make_agent()
        good, bad = TouchyPolicy(seed=1), TouchyPolicy(seed=2, **{touch: 5e4})
        publish(store, good, touchy_exporter())
        agent.reset()
        manifest = publish(store, bad, touchy_exporter())
        agent.reset()
        expected = eager(bad, OBSERVATIONS, quiet_noise(bad.policy, 3))
        np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected[0])
        offset = agent.noise_offset
        decision = agent.decide([TOUCHING])
        expected = eager(good, TOUCHING, quiet_noise(good.policy, 3))
        np.testing.assert_array_equal(decision.action, expected[0])
        np.testing.assert_allclose(decision.value, expected[2], rtol=1e-5)
        assert agent.noise_offset == offset + 1
        assert agent.policy.version == 0
        assert captured_logs.lines_with(
            "ERROR | actor.agent:decide - policy version 1 quarantined reason=PolicyOutputError: "
        )
        agent.reset()
        agent.act(TOUCHING)
        assert agent.policy.version == 0
        assert "PolicyOutputError" in store.quarantined()[manifest.digest]

    def test_an_older_version_is_loaded_if_no_good_one_is_in_memory(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        good, bad = TouchyPolicy(seed=1), TouchyPolicy(seed=2, nan_above=5e4)
        publish(store, good, touchy_exporter())
        publish(store, bad, touchy_exporter())
        for synchronous in (True, False):
            agent = make_agent(synchronous=synchronous, deadline_s=60.0)
            agent.reset()
            assert agent.policy.version == 1
            expected = eager(good, TOUCHING, quiet_noise(good.policy, 3))
            np.testing.assert_array_equal(agent.act(TOUCHING), expected[0])
            assert agent.policy.version == 0

    def test_a_newer_version_than_the_failed_one_is_adopted(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        agent = make_agent()
        for seed, limit in ((1, 1e30), (2, 5e4)):
            publish(store, TouchyPolicy(seed=seed, nan_above=limit), touchy_exporter())
            agent.reset()
        agent.act(TOUCHING)
        publish(store, TouchyPolicy(seed=3), touchy_exporter())
        agent.reset()
        assert agent.policy.version == 2

    def test_if_no_version_is_left_the_error_names_the_failure(
        self, store: LocalPolicyStore, make_agent: MakeAgent
    ) -> None:
        agent = make_agent(follow="pinned:1")
        publish(store, TouchyPolicy(seed=1), touchy_exporter())
        publish(store, TouchyPolicy(seed=2, nan_above=5e4), touchy_exporter())
        agent.reset()
        for observation in (TOUCHING, OBSERVATIONS):  # what was quarantined does not act again, whatever it would say
            with pytest.raises(PolicyUnavailable, match=r"version 1 \(quarantined\): PolicyOutputError: log_prob nan"):
                agent.act(observation)

    @pytest.mark.parametrize("engine", ["torchscript", "llvm"])
    def test_an_observation_that_is_nan_quarantines_no_version(
        self, store: LocalPolicyStore, make_agent: MakeAgent, engine: EngineChoice
    ) -> None:
        agent = make_agent(engine=engine)
        for seed in range(2):
            publish_seed(store, seed, onnx=True)
            agent.reset()
        assert agent.policy.engine_name == engine
        with pytest.raises(EnvironmentFailed, match=r"no policy can act on this: observation holds .* such as nan"):
            agent.act(np.full((3, 4), np.nan, np.float32))
        assert agent.policy.version == 1
        assert store.quarantined() == {}
        agent.act(OBSERVATIONS)


def test_a_waiting_agent_logs_the_reason(
    store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
) -> None:
    publish_seed(store, 0)
    _flip_byte(store, 0, WEIGHTS_FILE)
    agent = make_agent(name="actor-3")
    with pytest.raises(PolicyUnavailable):
        agent.reset()
    assert f"INFO | actor.agent:reset - waiting for a policy agent=actor-3 store={store}" in captured_logs.lines
    assert captured_logs.lines_with("ERROR | actor.agent:reset - policy version 0 quarantined reason=DigestMismatch")


def test_a_removed_version_raises_version_not_found(store: LocalPolicyStore) -> None:
    with pytest.raises(VersionNotFound):
        store.open(3)
