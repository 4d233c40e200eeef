"""Deprecated import path; it goes with the next release."""

from shared.deprecation import moved

__getattr__ = moved(
    __name__, {"export_module": "rl_hotswap:export_module", "publish_policy": "rl_hotswap:publish_policy"}
)
