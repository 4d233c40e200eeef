"""Deprecated import path; it goes with the next release."""

from shared.deprecation import moved

__getattr__ = moved(
    __name__,
    {
        "LocalPolicyStore": "shared.store.policy_store:LocalPolicyStore",
        "PolicyStore": "shared.store.policy_store:PolicyStore",
        "open_store": "rl_hotswap:open_store",
    },
)
