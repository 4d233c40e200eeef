"""The configuration of a prefetcher process."""

import msgspec

from shared.policy.signature import PolicySignature


class PrefetchConfig(msgspec.Struct, frozen=True):
    """The versions to verify, and the open descriptors to report them with: ``shared_weights``, ``wake``, ``news``.

    Versions up to ``version`` are skipped. Paths are bytes: they need not be UTF-8. The rest is as for the loader and
    its engines.
    """

    store: bytes
    version: int
    signature: PolicySignature
    program_digest: str
    code_digest: str
    block_floats: int
    batch_size: int
    values: bool
    public_keys: tuple[bytes, ...]
    run_id: str | None
    quarantine_directory: bytes | None
    shared_weights: int
    wake: int
    news: int
