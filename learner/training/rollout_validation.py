"""Validation of the policy version that a rollout claims to be acted by."""

from loguru import logger

from learner.publishing.policy_publisher import PolicyPublisher
from shared.errors import StoreError


def find_version_fault(publisher: PolicyPublisher, version: int, digest: str) -> str | None:
    """Return why no actor can have acted with this version of this digest, or None.

    Versions that the publisher does not remember are accepted if the store may have held them.
    """
    published = publisher.published_digest(version)
    if published is not None:
        return None if published == digest else f"version {version} has digest {published}, found {digest}"
    if publisher.latest_version is not None and version <= publisher.latest_version:
        return None  # published before this process began, or its digest was dropped
    try:
        newest = publisher.newest_stored_version()  # includes those of earlier learners, and one being counted
    except StoreError as error:
        logger.warning("cannot look up a policy version version={}: {}", version, error)
        return None
    return None if newest is None or version <= newest else f"version {version} was never published"
