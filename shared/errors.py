"""Every error that this project raises, in one tree.

    HotswapError
    ├── ConfigurationError
    ├── EnvironmentFailed
    ├── StoreError
    │   ├── StoreUnavailable
    │   ├── VersionNotFound
    │   └── StoreLocked
    ├── PolicyError
    │   ├── SignatureMismatch
    │   ├── ExportError
    │   │   └── ScriptingError
    │   ├── PolicyLoadError
    │   │   ├── PermanentLoadError
    │   │   │   ├── ManifestError
    │   │   │   ├── NotAuthentic
    │   │   │   ├── DigestMismatch
    │   │   │   ├── ProgramError
    │   │   │   │   ├── ProgramImpure
    │   │   │   │   └── ProgramUnsupported
    │   │   │   ├── OperatorNotAllowed
    │   │   │   ├── WeightsError
    │   │   │   ├── ProbeMismatch
    │   │   │   └── NotTrusted
    │   │   └── TransientLoadError
    │   ├── PolicyOutputError
    │   └── PolicyUnavailable
    ├── TransportError
    │   ├── RolloutInvalid
    │   │   └── RolloutOutOfBounds
    │   └── TransportClosed
    ├── CheckpointError
    ├── UpdateNotFinite
    └── TrainingFailed

Foreign exceptions are mapped with ``raise ... from error``.
"""

import re

# Control characters of both sets and delete, line separators, marks and overrides of the direction of text, and lone
# surrogates, which no terminal or file can encode.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """Return ``str(text)`` with each character that could begin a line or steer a terminal as a Python escape."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), _str(text))


def one_line(message: object, most_characters: int | None = None) -> str:
    """Return ``str(message)`` on one line, cut after ``most_characters``, printable.

    Each run of white space becomes one space.
    """
    return printable(" ".join(_str(message).split()))[:most_characters]


def _str(value: object) -> str:
    """Return ``str(value)``; a class of a program may raise there."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - the text stands for it
        return f"{type(value).__name__} without text ({type(error).__name__})"


class HotswapError(Exception):
    """Base of every error of this project. The message is one printable line, whatever it quotes."""

    def __str__(self) -> str:
        """Return the message."""
        return one_line(super().__str__())


class ConfigurationError(HotswapError):
    """Invalid flag, environment or space: correct it as the message says. Commands print one line and exit with 2."""


class EnvironmentFailed(HotswapError):
    """An environment raised, its process died, or its numbers cannot be learned from: fix the environment.

    Commands print one line and exit with 4.
    """


class StoreError(HotswapError):
    """A policy store failed an operation."""


class StoreUnavailable(StoreError):
    """The storage failed temporarily: retry, and check the disk, mount or network that the message names."""


class VersionNotFound(StoreError):
    """The version was never published or has been removed: choose one that the store lists."""


class StoreLocked(StoreError):
    """Another learner publishes into this store: stop it, or use another run directory."""


class PolicyError(HotswapError):
    """Base of the errors about one policy."""


class SignatureMismatch(PolicyError):
    """Tensors differ from the policy's signature: pass the shapes and dtypes that the message expects."""


class ExportError(PolicyError):
    """No export method gave a program that equals the eager policy: change the policy as the message suggests."""


class ScriptingError(ExportError):
    """torch.jit refused the module, with torch's own first message: change that code, or let the export trace it."""


class PolicyLoadError(PolicyError):
    """A version could not be loaded."""


class PermanentLoadError(PolicyLoadError):
    """The version cannot be loaded however often it is tried; it is quarantined. Publish a corrected version."""


class ManifestError(PermanentLoadError):
    """The manifest is malformed, or of a format that this release does not read: update the older side."""


class NotAuthentic(PermanentLoadError):
    """The version is unsigned, changed after signing, signed with an unaccepted key, or of another run.

    Only this copy is in doubt, not its content. Publish with ``--signing-key``, or pass the publisher's public key.
    """


class DigestMismatch(PermanentLoadError):
    """A file's SHA-256 differs from the manifest's, also when read again: copy or publish the version again."""


class ProgramError(PermanentLoadError):
    """No program of the version can be loaded: export it again."""


class ProgramImpure(ProgramError):
    """A row's outputs depend on more than that row and the weights: change the policy as the message says."""


class ProgramUnsupported(ProgramError):
    """The engine does not support this program, which may be valid: choose another engine."""


class OperatorNotAllowed(PermanentLoadError):
    """A program uses an operator that may have side effects or is not deterministic: replace it, or allow it by name.

    ``--allow-operator NAME`` allows one operator, ``--trust-program`` all of a trusted publisher.
    """


class WeightsError(PermanentLoadError):
    """Weights are missing, unexpected, not finite, or of a wrong shape or dtype: publish weights of this network."""


class ProbeMismatch(PermanentLoadError):
    """The program's outputs differ from the learner's: export again, or choose another engine."""


class NotTrusted(PermanentLoadError):
    """Loading would run code without permission: use ``--trust-module`` or ``--trust-native`` for trusted sources."""


class TransientLoadError(PolicyLoadError):
    """The version could not be loaded yet, for example because of an I/O error; it is tried again."""


class PolicyOutputError(PolicyError):
    """The policy raised, or its output is not an action of the action space; the last good version answers instead."""


class PolicyUnavailable(PolicyError):
    """No policy became available within the deadline. The message lists each version tried and its error."""


class TransportError(HotswapError):
    """Rollouts or control messages could not be exchanged: check the address and the keys."""


class RolloutInvalid(TransportError):
    """A message is not a rollout of this run; it is counted and dropped."""


class RolloutOutOfBounds(RolloutInvalid):
    """A reward, observation or log-probability is not finite or beyond its bounds: correct the environment."""


class TransportClosed(TransportError):
    """The transport was used after it was closed."""


class CheckpointError(HotswapError):
    """No checkpoint could be read, or one could not be written: check the disk, or start a new run."""


class UpdateNotFinite(HotswapError):
    """Loss, gradients or result of an update are not finite; the learner is as before it. Reduce the learning rate."""


class TrainingFailed(HotswapError):
    """The processes of a training ended without a summary: read the learner's log, which the message names."""
