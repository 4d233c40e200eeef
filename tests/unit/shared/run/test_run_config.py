"""Signatures of run.json."""

import msgspec
import pytest
from gymnasium import spaces

from shared.errors import NotAuthentic
from shared.policy.signature import acting_signature
from shared.policy.signing import SigningKey
from shared.policy.spaces import action_spec, observation_leaves
from shared.run.run_config import RunConfig, check_run_config, encode_run_config, sign_run_config

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
CONFIG = RunConfig(
    run_id="run",
    env_id="CartPole-v1",
    env_kwargs={"max_episode_steps": 20},
    seed=0,
    rollout_length=32,
    signature=acting_signature(observation_leaves(spaces.Box(-1, 1, (4,))), action_spec(spaces.Discrete(2))),
    address="ipc://@there",
)
WHERE = "runs/one/run.json"


def test_a_signed_configuration_passes_after_encoding() -> None:
    signed = msgspec.json.decode(encode_run_config(sign_run_config(CONFIG, KEY)), type=RunConfig)
    check_run_config(signed, [KEY.public], WHERE)
    check_run_config(signed, [OTHER.public, KEY.public], WHERE)
    assert sign_run_config(signed, KEY) == signed, "signing again changes nothing"
    check_run_config(CONFIG, [], WHERE)  # without a key everything passes


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "other"},
        {"env_kwargs": {}},
        {"address": "tcp://192.0.2.1:5555"},
        {"learner_public_key": "ab" * 32},
        {"rollout_length": 64},
        {"authentication": "ab" * 64},
        {"authentication": KEY.sign(encode_run_config(CONFIG)).hex()},  # of the plain file, as manifests are signed
        {"authentication": "no number"},
        {"authentication": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_configuration_is_refused(change: dict[str, object]) -> None:
    forged = msgspec.structs.replace(sign_run_config(CONFIG, KEY), **change)
    with pytest.raises(NotAuthentic, match=r"runs/one/run\.json has no signature by ed25519:"):
        check_run_config(forged, [KEY.public], WHERE)


def test_another_key_and_no_signature_are_refused() -> None:
    with pytest.raises(NotAuthentic, match="another key"):
        check_run_config(sign_run_config(CONFIG, OTHER), [KEY.public], WHERE)
    with pytest.raises(NotAuthentic, match="is not signed"):
        check_run_config(CONFIG, [KEY.public], WHERE)
