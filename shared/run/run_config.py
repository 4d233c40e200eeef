"""``run.json``: what the learner of a run decided and every actor of that run must know."""

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.errors import ConfigurationError, NotAuthentic
from shared.policy.signature import PolicySignature
from shared.policy.signing import PublicKey, SigningKey

# What is signed begins with it, so that no signature of a manifest can stand for one of a run, or the other way round.
_RUN_CONFIG = b"rl-hotswap run.json\n"


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training, as actors need to see it. Written once by the learner, before version 0 is published.

    ``address`` is where the learner receives rollouts; ``window`` is how many a sender may have under way;
    ``learner_timeout_s`` is how long a silence makes a sender believe that the learner is away. With a
    ``learner_public_key`` (hexadecimal) the learner takes encrypted rollouts only, from actors that have the run's key.
    ``policy_public_key`` tells with which key the run's versions are signed, for people and for a learner that goes on;
    an actor believes only the keys that whoever starts it names. ``authentication`` (hexadecimal) is that key's
    signature of all the rest (``shared/store/authenticity.py``).
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
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(config, order="deterministic"), indent=1)


def decode_run_config(data: bytes) -> RunConfig:
    """Parse and validate. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(data, type=RunConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"run.json is not one that this release can read: {error}") from error


def sign_run_config(config: RunConfig, key: SigningKey) -> RunConfig:
    """``config`` with the signature of all that it says."""
    return msgspec.structs.replace(config, authentication=key.sign(_signed_bytes(config)).hex())


def check_run_config(config: RunConfig, keys: Sequence[PublicKey], where: str) -> None:
    """Raise NotAuthentic unless one of ``keys`` signed the run.json at ``where``; without keys everything passes.

    It says which environment is made with which arguments, of which run versions may act, and who gets the rollouts.
    """
    if not keys:
        return
    accepted = " or ".join(key.short for key in keys)
    if config.authentication is None:
        raise NotAuthentic(
            f"{where} is not signed; expected a signature by {accepted}, which a learner with --signing-key makes"
        )
    try:
        signature = bytes.fromhex(config.authentication)
    except ValueError:
        signature = b""
    if not any(key.verifies(signature, _signed_bytes(config)) for key in keys):
        raise NotAuthentic(f"{where} has no signature by {accepted}: it is another key's, or was changed since")


def _signed_bytes(config: RunConfig) -> bytes:
    return _RUN_CONFIG + encode_run_config(msgspec.structs.replace(config, authentication=None))
