"""Every error that this project raises, in one tree.

    HotswapError
    ├── ConfigurationError          a flag, an environment or a space that cannot work: exit code 2
    ├── TrainingFailed              the learner of a training died repeatedly
    ├── EnvironmentFailed           an environment in a process of its own raised, or that process is gone
    ├── StoreError
    │   ├── StoreUnavailable        the storage did not answer as it should (transient)
    │   ├── VersionNotFound         no such version: never published, or swept meanwhile
    │   └── StoreLocked             another learner publishes into this store
    ├── PolicyError
    │   ├── SignatureMismatch       tensors are not those of the policy's signature
    │   ├── ExportError             no method of the export engines gave a program equal to eager
    │   │   └── ScriptingError      torch.jit refused the module
    │   ├── PolicyLoadError         a version could not be made ready to act
    │   │   ├── PermanentLoadError  trying again cannot help: quarantine
    │   │   │   ├── ManifestError   not a manifest, or not one that this release reads
    │   │   │   ├── NotAuthentic    unsigned, signed with another key, or of another run
    │   │   │   ├── DigestMismatch  the bytes are not those that the manifest promises
    │   │   │   ├── ProgramError    no program of this version loads
    │   │   │   │   └── ProgramUnsupported  a sound one perhaps, but not one that this engine runs
    │   │   │   ├── WeightsError    missing, extra, misshapen or not finite
    │   │   │   ├── ProbeMismatch   loads, but does not compute what the learner computed
    │   │   │   └── NotTrusted      would run code that nobody allowed by name
    │   │   └── TransientLoadError  trying again may help: a file not there yet, an I/O error
    │   ├── PolicyOutputError       the acting policy answered with something that is no action
    │   └── PolicyUnavailable       nothing can act, and the deadline has passed
    ├── TransportError
    │   ├── RolloutInvalid          what arrived is not a rollout of this run
    │   └── TransportClosed         used after it was closed
    └── CheckpointError             no checkpoint can be read, or one could not be written

Foreign exceptions are mapped where they arise, with ``raise … from error``.
"""


def one_line(message: object, most_characters: int | None = None) -> str:
    """Return ``str(message)`` on one line: each run of white space becomes one space; cut after ``most_characters``.

    torch's messages run over many lines; a log line and a report hold one line for each event.
    """
    return " ".join(str(message).split())[:most_characters]


class HotswapError(Exception):
    """Base of every error that callers of this project may want to catch."""


class ConfigurationError(HotswapError):
    """A flag, an environment or a space that cannot work. Commands print it as one line and exit with 2."""


class TrainingFailed(HotswapError):
    """The processes of a training ended without a summary."""


class EnvironmentFailed(HotswapError):
    """An environment in a process of its own raised while it was reset or stepped, or that process is gone."""


class StoreError(HotswapError):
    """A policy store could not do what it was asked."""


class StoreUnavailable(StoreError):
    """The storage did not answer as it should; trying again may help."""


class VersionNotFound(StoreError):
    """No such version: it was never published, or it has been swept meanwhile."""


class StoreLocked(StoreError):
    """Another learner publishes into this store."""


class PolicyError(HotswapError):
    """Something about one policy."""


class SignatureMismatch(PolicyError):
    """Tensors are not those that the policy's signature names."""


class ExportError(PolicyError):
    """No method of the export engines gave a program that equals the eager policy."""


class ScriptingError(ExportError):
    """torch.jit refused the module; the message is torch's own first one."""


class PolicyLoadError(PolicyError):
    """A version could not be made ready to act."""


class PermanentLoadError(PolicyLoadError):
    """Trying this version again cannot help: it is quarantined."""


class ManifestError(PermanentLoadError):
    """Not a manifest, or not one that this release can read."""


class NotAuthentic(PermanentLoadError):
    """Not signed, signed with a key that is not accepted, changed after it was signed, or of another run.

    It says nothing of the version's content: who wrote this copy is what is in doubt.
    """


class DigestMismatch(PermanentLoadError):
    """A file's bytes are not those that the manifest promises, even when read a second time."""


class ProgramError(PermanentLoadError):
    """No program of this version can be loaded."""


class ProgramUnsupported(ProgramError):
    """The program may be sound, but it is not one that this engine runs: another one does."""


class WeightsError(PermanentLoadError):
    """Weights are missing, extra, of the wrong shape or dtype, or not finite."""


class ProbeMismatch(PermanentLoadError):
    """The program loads, but does not compute what the learner computed."""


class NotTrusted(PermanentLoadError):
    """Loading would run code that nobody allowed by name."""


class TransientLoadError(PolicyLoadError):
    """Trying this version again may help: a file that is not there yet, an I/O error."""


class PolicyOutputError(PolicyError):
    """The acting policy answered with something that is not an action of the action space."""


class PolicyUnavailable(PolicyError):
    """Nothing can act, and the deadline has passed. The message names each version tried and why it failed."""


class TransportError(HotswapError):
    """Rollouts or control messages could not be exchanged."""


class RolloutInvalid(TransportError):
    """What arrived is not a rollout of this run."""


class TransportClosed(TransportError):
    """The transport was used after it was closed."""


class CheckpointError(HotswapError):
    """No checkpoint can be read, or one could not be written."""
