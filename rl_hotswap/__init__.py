"""The public API of rl-hotswap."""

__version__ = "0.1.0"
