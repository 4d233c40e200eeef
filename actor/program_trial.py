"""Deprecated import path; it goes with the next release."""

from shared.deprecation import moved

__getattr__ = moved(__name__, {"TrialLimits": "rl_hotswap:SandboxLimits"})
