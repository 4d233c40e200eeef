"""An actor with a public key, and versions that the holder of the key did not publish in this form."""

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from actor.agent import Agent
from actor.agent_options import TrustOptions
from shared.errors import PolicyUnavailable
from shared.policy.signing import SigningKey
from shared.store.policy_store import LocalPolicyStore, VersionFiles
from shared.store.version_directory import VersionDirectory
from tests.support.agent_policies import eager, exporter, local_store, make_policy, publish, quiet_noise
from tests.support.captured_logs import CapturedLogs
from tests.support.signature_attacks import ATTACKS, KEY, OTHER_KEY, Attack, publish_signed
from tests.support.store_cases import StoreCase, store_case

OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

MakeAgent = Callable[..., Agent]


@pytest.fixture(params=["local", "memory"])
def case(request: pytest.FixtureRequest) -> Iterator[StoreCase]:
    with store_case(request.param) as made:
        yield made


each_attack = pytest.mark.parametrize(
    ("attack", "reason"), [pytest.param(*item, id=item[0].__name__) for item in ATTACKS.items()]
)


@each_attack
def test_an_attack_keeps_the_acting_policy_until_the_next_good_version(
    case: StoreCase, make_agent: MakeAgent, captured_logs: CapturedLogs, attack: Attack, reason: str
) -> None:
    publish_signed(case, 0)
    agent = make_agent(store=case.open(), trust=TrustOptions(public_keys=[KEY.public]))
    agent.reset()
    publish_signed(case, 1)
    attack(case)
    first = make_policy(seed=0)
    expected = eager(first, OBSERVATIONS, quiet_noise(first, 3))[0]
    for _ in range(3):
        agent.reset()
        np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected)
        assert agent.policy.version == 0
    (line,) = captured_logs.lines_with("quarantined reason")
    assert re.match(rf"ERROR \| actor\.agent:reset - policy version \d quarantined reason={reason}", line)
    assert case.open().quarantined() == {}, "the copy is in doubt, not what the publisher made"
    good = publish_signed(case, 1)
    agent.reset()
    assert agent.policy.version == good.version


@each_attack
def test_an_attacked_version_does_not_act_as_the_first_one(
    case: StoreCase, make_agent: MakeAgent, attack: Attack, reason: str
) -> None:
    publish_signed(case, 0)
    publish_signed(case, 1)
    attack(case)
    for name in case.files():
        if name.startswith("v000000/"):
            case.remove(name)
    agent = make_agent(store=case.open(), trust=TrustOptions(public_keys=[KEY.public], run_id="run"))
    with pytest.raises(PolicyUnavailable, match=reason):
        agent.act(OBSERVATIONS)


def test_a_content_that_was_forged_can_still_be_published(case: StoreCase, make_agent: MakeAgent) -> None:
    """A corrupted copy of a version must not get the version itself refused."""
    publish_signed(case, 0)
    agent = make_agent(store=case.open(), trust=TrustOptions(public_keys=[KEY.public]))
    agent.reset()
    forged = publish(case.open(), make_policy(seed=1), exporter(), sign=OTHER_KEY.sign)
    spoiled = publish_signed(case, 1)
    case.put("v000002/probe.safetensors", b"spoiled")
    agent.reset()
    assert agent.policy.version == 0
    good = publish_signed(case, 1)
    assert good.digest == forged.digest == spoiled.digest
    agent.reset()
    assert agent.policy.version == good.version


def test_a_manifest_that_was_misread_is_read_again(make_agent: MakeAgent, store: LocalPolicyStore) -> None:
    class Flickering(LocalPolicyStore):
        reads = 0

        def open(self, version: int) -> VersionFiles:
            self.reads += 1
            files = super().open(version)
            assert isinstance(files, VersionDirectory)
            flawed = files.manifest_bytes.replace(b'"', b"'", 1)
            return dataclasses.replace(files, manifest_bytes=flawed) if self.reads == 1 else files

    publish(store, make_policy(), exporter(), sign=KEY.sign)
    flickering = Flickering(store.path, fsync=False)
    agent = make_agent(store=flickering, trust=TrustOptions(public_keys=[KEY.public]))
    agent.reset()
    assert (agent.policy.version, flickering.reads) == (0, 2)


def test_keys_change_without_a_step_lost(case: StoreCase, make_agent: MakeAgent, captured_logs: CapturedLogs) -> None:
    publish_signed(case, 0)
    both = make_agent(store=case.open(), trust=TrustOptions(public_keys=[KEY.public, OTHER_KEY.public]))
    old, new = (make_agent(store=case.open(), trust=TrustOptions(public_keys=[key.public])) for key in (KEY, OTHER_KEY))
    for agent in (both, old):
        agent.reset()
    publish_signed(case, 1, OTHER_KEY)
    for agent in (both, old, new):
        agent.reset()
    assert [agent.policy.version for agent in (both, old, new)] == [1, 0, 1]


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with one"])
def test_an_older_copy_of_the_store_freezes_an_actor_and_is_logged(
    tmp_path: Path, store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs, key: SigningKey | None
) -> None:
    keys = [] if key is None else [key.public]
    for seed in range(3):
        publish(store, make_policy(seed=seed), exporter(), sign=KEY.sign)
    shutil.copytree(store.path, tmp_path / "copy")
    publish(store, make_policy(seed=3), exporter(), sign=KEY.sign)
    agent = make_agent(trust=TrustOptions(public_keys=keys))
    agent.reset()
    shutil.rmtree(store.path)
    (tmp_path / "copy").rename(store.path)
    (store.path / ".highest-000003").unlink(missing_ok=True)
    for _ in range(3):
        agent.reset()
        agent.act(OBSERVATIONS)
        assert agent.policy.version == 3
    (line,) = captured_logs.lines_with("WARNING | actor.agent:reset - policy store went back")
    assert "acting=3 newest=2: older versions are not adopted" in line
    while publish(local_store(store.path), make_policy(seed=9), exporter(), sign=KEY.sign).version < 4:
        agent.reset()
        assert agent.policy.version == 3
    agent.reset()
    assert agent.policy.version == 4


@pytest.mark.parametrize(("keys", "level"), [((), "INFO"), ((KEY.public,), "WARNING")])
def test_an_actor_logs_the_age_of_its_policy_if_no_newer_version_comes(
    store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs, keys: tuple[object, ...], level: str
) -> None:
    publish(store, make_policy(), exporter(), sign=KEY.sign, created_unix_s=1e9)
    agent = make_agent(trust=TrustOptions(public_keys=keys), stale_after_s=3600.0)
    for _ in range(3):
        agent.reset()
    (line,) = captured_logs.lines_with("is stale")
    assert re.match(rf"{level} \| actor\.agent:reset - policy version 0 is stale age=\d+\.\d days$", line)


def test_the_age_of_a_pinned_version_is_not_logged(
    store: LocalPolicyStore, make_agent: MakeAgent, captured_logs: CapturedLogs
) -> None:
    for seed in range(2):
        publish(store, make_policy(seed=seed), exporter(), sign=KEY.sign, created_unix_s=1e9)
    agent = make_agent(follow="pinned:0", trust=TrustOptions(public_keys=[KEY.public]))
    for _ in range(2):
        agent.reset()
    assert agent.policy.version == 0
    assert not captured_logs.has("is stale")
