"""What an actor with a public key does with versions that the key's holder did not publish as they lie there."""

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from actor.agent import Agent
from shared.errors import PolicyUnavailable
from shared.manifest import Manifest, decode_manifest, encode_manifest
from shared.policy_store import LocalPolicyStore, VersionFiles
from shared.signing import SigningKey
from shared.version_directory import VersionDirectory
from tests.agent_policies import eager, exporter, local_store, make_policy, publish, quiet_noise
from tests.contract.store_cases import StoreCase, store_case

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()
OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

MakeAgent = Callable[..., Agent]
Attack = Callable[[StoreCase], None]


@pytest.fixture(params=["local", "memory"])
def case(request: pytest.FixtureRequest) -> Iterator[StoreCase]:
    with store_case(request.param) as made:
        yield made


def publish_signed(case: StoreCase, seed: int, key: SigningKey = KEY, **fields: object) -> Manifest:
    return publish(case.open(), make_policy(seed=seed), exporter(), sign=key.sign, **fields)


def altered(case: StoreCase, directory: str, **fields: object) -> bytes:
    """The manifest in ``directory`` with other ``fields``."""
    return encode_manifest(msgspec.structs.replace(decode_manifest(case.get(f"{directory}/manifest.json")), **fields))


def copy(case: StoreCase, version: str, to: str) -> None:
    for name in case.files():
        if name.startswith(f"{version}/"):
            case.put(name.replace(version, to), case.get(name))


# Each makes the newest version of the store a bad one. Version 0 acts; version 1 is signed as it should be.


def an_old_version_under_a_new_number(case: StoreCase) -> None:
    case.remove("v000001")
    copy(case, "v000000", "v000007")


def a_number_altered(case: StoreCase) -> None:
    copy(case, "v000001", "v000007")
    case.put("v000007/manifest.json", altered(case, "v000001", version=7))
    case.remove("v000001")


def a_run_altered(case: StoreCase) -> None:
    case.put("v000001/manifest.json", altered(case, "v000001", run_id="other"))


def the_signature_taken_away(case: StoreCase) -> None:
    case.remove("v000001/manifest.sig")


def the_signature_of_another_version(case: StoreCase) -> None:
    case.put("v000001/manifest.sig", case.get("v000000/manifest.sig"))


def signed_with_another_key(case: StoreCase) -> None:
    case.put("v000001/manifest.sig", OTHER_KEY.sign(case.get("v000001/manifest.json")))


def one_byte_altered(case: StoreCase) -> None:
    manifest = case.get("v000001/manifest.json")
    before, after = b'"env_steps": 0', b'"env_steps": 1'
    assert before in manifest
    case.put("v000001/manifest.json", manifest.replace(before, after))


def a_file_of_another_signed_version(case: StoreCase) -> None:
    case.put("v000001/weights.safetensors", case.get("v000000/weights.safetensors"))


def another_content_with_its_own_digests(case: StoreCase) -> None:
    """What somebody without the key would publish: right in everything else."""
    case.remove("v000001")
    publish(case.open(), make_policy(seed=9), exporter())


def a_version_that_was_signed_for_another_run(case: StoreCase) -> None:
    case.remove("v000001")
    publish_signed(case, 9, run_id="other")


ATTACKS: dict[Attack, str] = {
    an_old_version_under_a_new_number: "ManifestError: .*expected a manifest of version 7, found one of 0",
    a_number_altered: "NotAuthentic: .*manifest.json was changed since",
    a_run_altered: "NotAuthentic: .*manifest.json was changed since",
    the_signature_taken_away: "NotAuthentic: .*the version is not signed",
    the_signature_of_another_version: "NotAuthentic: .*it was made with another key",
    signed_with_another_key: "NotAuthentic: .*it was made with another key",
    one_byte_altered: "NotAuthentic: .*manifest.json was changed since",
    a_file_of_another_signed_version: "DigestMismatch: .*weights.safetensors: expected SHA-256",
    another_content_with_its_own_digests: "NotAuthentic: .*the version is not signed",
    a_version_that_was_signed_for_another_run: "NotAuthentic: .*signed for run 'other', and this is run 'run'",
}

each_attack = pytest.mark.parametrize(
    ("attack", "reason"), [pytest.param(*item, id=item[0].__name__) for item in ATTACKS.items()]
)


@each_attack
def test_what_acts_goes_on_and_the_next_good_version_is_adopted(
    case: StoreCase, make_agent: MakeAgent, lines: list[str], attack: Attack, reason: str
) -> None:
    publish_signed(case, 0)
    agent = make_agent(store=case.open(), public_keys=[KEY.public])
    agent.reset()
    publish_signed(case, 1)
    attack(case)
    first = make_policy(seed=0)
    expected = eager(first, OBSERVATIONS, quiet_noise(first, 3))[0]
    for _ in range(3):
        agent.reset()
        np.testing.assert_array_equal(agent.act(OBSERVATIONS), expected)
        assert agent.policy.version == 0
    (line,) = [line for line in lines if "is quarantined" in line]
    assert re.match(rf"ERROR \| actor\.agent:reset - version \d is quarantined: {reason}", line)
    assert case.open().quarantined() == {}, "the copy is in doubt, not what the publisher made"
    good = publish_signed(case, 1)
    agent.reset()
    assert agent.policy.version == good.version


@each_attack
def test_nothing_of_it_acts_first_either(case: StoreCase, make_agent: MakeAgent, attack: Attack, reason: str) -> None:
    publish_signed(case, 0)
    publish_signed(case, 1)
    attack(case)
    for name in case.files():
        if name.startswith("v000000/"):
            case.remove(name)
    agent = make_agent(store=case.open(), public_keys=[KEY.public], run_id="run")
    with pytest.raises(PolicyUnavailable, match=reason):
        agent.act(OBSERVATIONS)


def test_what_was_forged_once_can_still_be_published(case: StoreCase, make_agent: MakeAgent) -> None:
    """Whoever spoils a copy of a version must not have the version itself refused."""
    publish_signed(case, 0)
    agent = make_agent(store=case.open(), public_keys=[KEY.public])
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


def test_a_flaw_that_passes_is_read_again(make_agent: MakeAgent, store: LocalPolicyStore) -> None:
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
    agent = make_agent(store=flickering, public_keys=[KEY.public])
    agent.reset()
    assert (agent.policy.version, flickering.reads) == (0, 2)


def test_keys_change_without_a_step_lost(case: StoreCase, make_agent: MakeAgent, lines: list[str]) -> None:
    publish_signed(case, 0)
    both = make_agent(store=case.open(), public_keys=[KEY.public, OTHER_KEY.public])
    old, new = (make_agent(store=case.open(), public_keys=[key.public]) for key in (KEY, OTHER_KEY))
    for agent in (both, old):
        agent.reset()
    publish_signed(case, 1, OTHER_KEY)
    for agent in (both, old, new):
        agent.reset()
    assert [agent.policy.version for agent in (both, old, new)] == [1, 0, 1]


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with one"])
def test_an_older_copy_of_the_store_freezes_an_actor_which_says_so(
    tmp_path: Path, store: LocalPolicyStore, make_agent: MakeAgent, lines: list[str], key: SigningKey | None
) -> None:
    keys = [] if key is None else [key.public]
    for seed in range(3):
        publish(store, make_policy(seed=seed), exporter(), sign=KEY.sign)
    shutil.copytree(store.path, tmp_path / "copy")
    publish(store, make_policy(seed=3), exporter(), sign=KEY.sign)
    agent = make_agent(public_keys=keys)
    agent.reset()
    shutil.rmtree(store.path)
    (tmp_path / "copy").rename(store.path)
    (store.path / ".highest-000003").unlink(missing_ok=True)
    for _ in range(3):
        agent.reset()
        agent.act(OBSERVATIONS)
        assert agent.policy.version == 3
    (line,) = [
        line for line in lines if line.startswith("WARNING | actor.agent:reset - the newest version in the store")
    ]
    assert "is 2 now, and version 3 acts: nothing older is adopted" in line
    while publish(local_store(store.path), make_policy(seed=9), exporter(), sign=KEY.sign).version < 4:
        agent.reset()
        assert agent.policy.version == 3
    agent.reset()
    assert agent.policy.version == 4


@pytest.mark.parametrize(("keys", "level"), [((), "INFO"), ((KEY.public,), "WARNING")])
def test_an_actor_from_which_new_versions_are_hidden_says_how_old_its_policy_is(
    store: LocalPolicyStore, make_agent: MakeAgent, lines: list[str], keys: tuple[object, ...], level: str
) -> None:
    publish(store, make_policy(), exporter(), sign=KEY.sign, created_unix_s=0.0)
    agent = make_agent(public_keys=keys, stale_after_s=3600.0)
    for _ in range(3):
        agent.reset()
    (line,) = [line for line in lines if "still acts" in line]
    assert re.match(rf"{level} \| actor\.agent:reset - version 0 still acts, published \d+\.\d days ago: ", line)


def test_a_pinned_version_is_meant_to_be_old(store: LocalPolicyStore, make_agent: MakeAgent, lines: list[str]) -> None:
    for seed in range(2):
        publish(store, make_policy(seed=seed), exporter(), sign=KEY.sign, created_unix_s=0.0)
    agent = make_agent(follow="pinned:0", public_keys=[KEY.public])
    for _ in range(2):
        agent.reset()
    assert agent.policy.version == 0
    assert not any("still acts" in line for line in lines)
