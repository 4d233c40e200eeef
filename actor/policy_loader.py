"""Deprecated import path; it goes with the next release."""

from shared.deprecation import moved

__getattr__ = moved(__name__, {"load_policy": "rl_hotswap:load_policy"})
