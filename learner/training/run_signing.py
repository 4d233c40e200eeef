"""With which key the versions of a run are signed, and that a run which signs does not stop to unnoticed."""

from pathlib import Path

from loguru import logger

from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.run.run_directory import RunDirectory


def signing_key_for(run: RunDirectory, path: Path | None) -> SigningKey | None:
    """The key in the file at ``path``, None where the run's versions are not signed.

    A run keeps its public key and never where the private one lies. So whoever goes on with it has to name that again:
    raises ConfigurationError where it is missing, and where it cannot be read.
    """
    config = run.run_config()
    before = None if config is None else config.policy_public_key
    if path is None:
        if before is not None:
            raise ConfigurationError(
                f"the versions of {run.path} are signed with {before}, and actors that check would refuse others: name "
                "the private key again by --signing-key FILE (no run keeps where it lies)"
            )
        return None
    key = SigningKey.read(path)
    if before is not None and before != str(key.public):
        logger.warning(
            "{} was signed with {} before, and from now on with {}: actors need that as a --public-key, too",
            run.path,
            before,
            key.public,
        )
    return key
