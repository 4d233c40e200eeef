"""Counts of rollouts by outcome."""

import msgspec


class RolloutAccounts(msgspec.Struct, forbid_unknown_fields=True):
    """Number of rollouts by outcome. ``sent == learned + stale + invalid + lost`` once none is in flight."""

    sent: int = 0
    learned: int = 0
    stale: int = 0
    invalid: int = 0
    lost: int = 0
