"""Secrets of a run: two CURVE key pairs, created with the run and readable by its owner only.

    runs/…/learner.key    the pair of the learner, and the public key of its actors
    runs/…/actor.key      the pair of the actors, and the public key of their learner: the file for remote actors

Without a key file a process can neither read nor send rollouts, nor act as the learner. All actors of a run share one
pair: the key authorizes them. Each session of an actor has a token of its own (``messages.Sender``), which identifies
it.
"""

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ConfigurationError
from shared.files.small_files import replace_file

LEARNER_KEY_NAME = "learner.key"
ACTOR_KEY_NAME = "actor.key"

_MAX_FILE_BYTES = 2**12
_PASSWORD = b"rl-hotswap local socket"

HexKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public_key: HexKey
    secret_key: HexKey

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.public_key})"

    def _password(self, peer: str) -> str:
        """Return a secret that only the owners of the two key pairs can compute."""
        secret = X25519PrivateKey.from_private_bytes(bytes.fromhex(self.secret_key))
        try:
            common = secret.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(peer)))
        except ValueError as error:  # a point of low order
            raise ConfigurationError(f"copy the keys of the run again: {peer} is no public key") from error
        return HKDF(SHA256(), 32, salt=None, info=_PASSWORD).derive(common).hex()


class LearnerKeys(_KeyPair, frozen=True, forbid_unknown_fields=True):
    """The key pair of the learner (hexadecimal, 32 bytes each), and the public key of its actors."""

    actor_public_key: HexKey

    @property
    def password(self) -> str:
        """Password of the local socket, the same as that of ``ActorKeys``. Raises ConfigurationError."""
        return self._password(self.actor_public_key)


class ActorKeys(_KeyPair, frozen=True, forbid_unknown_fields=True):
    """The key pair of the actors (hexadecimal, 32 bytes each), and the public key of their learner."""

    learner_public_key: HexKey

    @property
    def password(self) -> str:
        """Password of the local socket, the same as that of ``LearnerKeys``. Raises ConfigurationError."""
        return self._password(self.learner_public_key)


_Keys = TypeVar("_Keys", LearnerKeys, ActorKeys)


def make_keys() -> tuple[LearnerKeys, ActorKeys]:
    """Return new keys for a learner and its actors."""
    learner, actor = _pair(), _pair()
    return LearnerKeys(*learner, actor_public_key=actor[0]), ActorKeys(*actor, learner_public_key=learner[0])


def keep_learner_keys(directory: Path) -> LearnerKeys:
    """Return the keys of the run in ``directory``; create them if there are none. Raises ConfigurationError."""
    path = directory / LEARNER_KEY_NAME
    if path.exists():
        return _read(path, LearnerKeys)
    learner, actor = make_keys()
    try:
        for file, keys in ((directory / ACTOR_KEY_NAME, actor), (path, learner)):  # if the last exists, both do
            replace_file(file, msgspec.json.format(msgspec.json.encode(keys), indent=1), mode=0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot write the keys of the run into {directory}: {error.strerror}") from error
    return learner


def read_actor_keys(path: Path) -> ActorKeys:
    return _read(path, ActorKeys)


def choose_actor_keys(given: Path | None, run: Path, learner_public_key: str | None) -> ActorKeys:
    """Return the keys in the file ``given``, else in the directory ``run``.

    Raises ConfigurationError if they do not belong to ``learner_public_key``, which ``run.json`` names. A given key
    takes precedence over ``run.json``, which another process may have written.
    """
    if learner_public_key is None:
        raise ConfigurationError(
            f"run one release on both sides: according to run.json the learner in {run} has no keys, so it is of an "
            "older release"
        )
    path = given or run / ACTOR_KEY_NAME
    if given is None and path.exists() and not path.is_file():  # reading a pipe would block
        raise ConfigurationError(f"copy {ACTOR_KEY_NAME} of the run again: {path} is not a regular file")
    keys = read_actor_keys(path)
    if keys.learner_public_key != learner_public_key:
        raise ConfigurationError(
            f"copy {ACTOR_KEY_NAME} from the directory of the run: {path} is not the key of the run in {run}; expected "
            f"learner {learner_public_key}, found {keys.learner_public_key}"
        )
    return keys


def _pair() -> tuple[str, str]:
    secret = X25519PrivateKey.generate()  # the key pairs of CURVE are those of X25519
    return secret.public_key().public_bytes_raw().hex(), secret.private_bytes_raw().hex()


def _read(path: Path, kind: type[_Keys]) -> _Keys:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=kind)
    except OSError as error:
        raise ConfigurationError(
            f"give an actor the {ACTOR_KEY_NAME} of its run with --transport-key FILE: cannot read the key {path}: "
            f"{error.strerror}"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Without the message of msgspec, which may quote the file.
        raise ConfigurationError(
            f"{path} is not a key of this release: expected the {kind.__name__} of one run, found other content"
        ) from error
