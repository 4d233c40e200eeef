"""Deprecated import path; it goes with the next release."""

from shared.deprecation import moved

_CLASSES = {name: f"shared.store.policy_store:{name}" for name in ("LocalPolicyStore", "PolicyStore")}
__getattr__ = moved(__name__, {"open_store": "rl_hotswap:open_store", **_CLASSES})
