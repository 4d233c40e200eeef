"""What an actor tells the prefetcher that it starts."""

import msgspec

from shared.policy.signature import PolicySignature


class PrefetchConfig(msgspec.Struct, frozen=True):
    """What to look for, and where to tell of it. The last three are open descriptors.

    Versions up to ``version`` are of no interest. ``remember_in``: where quarantines are remembered.
    """

    store: str
    version: int
    signature: PolicySignature
    program_digest: str
    code_digest: str
    block_floats: int
    batch_size: int
    values: bool
    public_keys: tuple[bytes, ...]
    run_id: str | None
    remember_in: str | None
    shared_weights: int
    wake: int
    news: int
