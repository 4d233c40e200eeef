"""``run.json``: the configuration of a run that its learner writes and its actors read."""

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.errors import NotAuthentic
from shared.policy.signature import PolicySignature
from shared.policy.signing import PublicKey, SigningKey

# Prefix of the signed bytes: a signature of a manifest is not valid for a run, nor the other way round.
_RUN_CONFIG = b"rl-hotswap run.json\n"


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of one run, written by the learner before version 0 is published.

    Attributes:
        address: where the learner receives rollouts; a socket is in the directory of the run.
        window: number of rollouts that a sender may have in flight.
        learner_timeout_s: silence after which a sender takes the learner to be down.
        learner_public_key: transport key of the learner (hexadecimal). None in runs of older releases.
        policy_public_key: key that signs the versions. Informative: actors accept only keys from their own flags.
        authentication: signature of all other fields (hexadecimal).
    """

    run_id: str
    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    rollout_length: int
    signature: PolicySignature
    address: str
    window: int = 1
    heartbeat_s: float = 0.5
    learner_timeout_s: float = 5.0
    learner_public_key: str | None = None
    policy_public_key: str | None = None
    authentication: str | None = None


def encode_run_config(config: RunConfig) -> bytes:
    return msgspec.json.format(msgspec.json.encode(config, order="deterministic"), indent=1)


def sign_run_config(config: RunConfig, key: SigningKey) -> RunConfig:
    """Return ``config`` with ``authentication`` set to the signature of all other fields."""
    return msgspec.structs.replace(config, authentication=key.sign(_signed_bytes(config)).hex())


def check_run_config(config: RunConfig, keys: Sequence[PublicKey], where: str) -> None:
    """Raise NotAuthentic unless one of ``keys`` signed ``config``, which was read at ``where``.

    Without keys every configuration passes. The signature covers the environment, its arguments, the run id and the
    address that receives rollouts.
    """
    if not keys:
        return
    accepted = " or ".join(key.short for key in keys)
    if config.authentication is None:
        raise NotAuthentic(
            f"start the learner with --signing-key: {where} is not signed, expected a signature by {accepted}"
        )
    try:
        signature = bytes.fromhex(config.authentication)
    except ValueError:
        signature = b""
    if not any(key.verifies(signature, _signed_bytes(config)) for key in keys):
        raise NotAuthentic(
            f"{where} has no signature by {accepted}: it was signed with another key, or changed afterwards"
        )


def _signed_bytes(config: RunConfig) -> bytes:
    return _RUN_CONFIG + encode_run_config(msgspec.structs.replace(config, authentication=None))
