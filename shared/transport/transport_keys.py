"""The keys of one run's rollouts over tcp: two CURVE key pairs, made with the run, kept where only its owner reads.

    runs/…/learner.key    the learner's pair, and which actors it takes: it stays where it is
    runs/…/actor.key      the actors' pair, and which learner they trust: the one file that an actor elsewhere is given

Whoever has neither reads nothing, sends nothing, and cannot pose as the learner. The actors of a run share one pair:
the key says that they may send, their names say who they are.
"""

import os
import secrets
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import ConfigurationError

LEARNER_KEY_NAME = "learner.key"
ACTOR_KEY_NAME = "actor.key"

HexKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class LearnerKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The learner's own pair (hexadecimal, 32 bytes each), and the public key of those it listens to."""

    public_key: HexKey
    secret_key: HexKey
    actor_public_key: HexKey

    def __repr__(self) -> str:
        return f"LearnerKeys({self.public_key})"


class ActorKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The actors' pair (hexadecimal, 32 bytes each), and the public key of the learner that they send to."""

    public_key: HexKey
    secret_key: HexKey
    learner_public_key: HexKey

    def __repr__(self) -> str:
        return f"ActorKeys({self.public_key})"


_Keys = TypeVar("_Keys", LearnerKeys, ActorKeys)


def make_keys() -> tuple[LearnerKeys, ActorKeys]:
    """Two new pairs that fit each other."""
    learner, actor = _pair(), _pair()
    return LearnerKeys(*learner, actor_public_key=actor[0]), ActorKeys(*actor, learner_public_key=learner[0])


def keep_learner_keys(directory: Path) -> LearnerKeys:
    """The keys of the run in ``directory``; made there, readable by their owner only, where there are none.

    Raises ConfigurationError where they cannot be read or written.
    """
    path = directory / LEARNER_KEY_NAME
    if path.exists():
        return _read(path, LearnerKeys)
    learner, actor = make_keys()
    try:
        _write_private(directory / ACTOR_KEY_NAME, actor)
        _write_private(path, learner)  # last: where it is there, both are
    except OSError as error:
        raise ConfigurationError(f"cannot keep the keys for --listen in {directory}: {error.strerror}") from error
    return learner


def read_actor_keys(path: Path) -> ActorKeys:
    """What an actor was given, or finds in its run's directory. Raises ConfigurationError."""
    return _read(path, ActorKeys)


def choose_actor_keys(given: Path | None, run: Path, learner_public_key: str | None) -> ActorKeys | None:
    """The key file that was ``given``, else the one in the directory ``run``; None where the learner has no keys.

    ``learner_public_key`` is what ``run.json`` says. Who was given a key trusts that more: ``run.json`` may have been
    written by somebody else. Raises ConfigurationError.
    """
    if learner_public_key is None:
        if given is None:
            return None
        raise ConfigurationError(
            f"--transport-key was given, but run.json in {run} says that its learner takes rollouts in the clear; "
            "leave the key out, or start the learner with --listen"
        )
    path = given or run / ACTOR_KEY_NAME
    keys = read_actor_keys(path)
    if keys.learner_public_key != learner_public_key:
        raise ConfigurationError(
            f"{path} is not the key of the run in {run}: expected the learner {learner_public_key}, found "
            f"{keys.learner_public_key}; copy {ACTOR_KEY_NAME} from that run's directory"
        )
    return keys


def _pair() -> tuple[str, str]:
    secret = X25519PrivateKey.generate()  # CURVE's pairs are those of X25519
    return secret.public_key().public_bytes_raw().hex(), secret.private_bytes_raw().hex()


def _write_private(path: Path, keys: LearnerKeys | ActorKeys) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(keys), indent=1))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path, kind: type[_Keys]) -> _Keys:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigurationError(
            f"the key {path} cannot be read ({error.strerror}); an actor's is {ACTOR_KEY_NAME} in the directory of its "
            "run, and is given by --transport-key FILE"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Not msgspec's own words: they may quote what stands in the file.
        raise ConfigurationError(
            f"{path} is not a key that this release made: expected the {kind.__name__} of one run, found other content"
        ) from error
