"""Choice of the key that signs the versions of a run."""

from pathlib import Path

from loguru import logger

from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.run.run_directory import RunDirectory


def signing_key_for(run: RunDirectory, path: Path | None) -> SigningKey | None:
    """Return the key in the file ``path``, or None if the run's versions are not signed.

    A run stores its public key, never the path of the private key, so a resumed run needs the path again. Raises
    ConfigurationError if it is missing, or the key cannot be read.
    """
    config = run.run_config()
    before = None if config is None else config.policy_public_key
    if path is None:
        if before is not None:
            raise ConfigurationError(
                f"name the private key again by --signing-key FILE: the versions of {run.path} are signed with "
                f"{before}, and actors that check signatures refuse others"
            )
        return None
    key = SigningKey.read(path)
    if before is not None and before != str(key.public):
        logger.warning(
            "signing key changed: actors need the new public key, too run={} before={} now={}",
            run.path,
            before,
            key.public,
        )
    return key
