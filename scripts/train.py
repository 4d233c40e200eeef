"""``python scripts/train.py``: the same as ``rl-hotswap train``."""

from rl_hotswap.cli.train import command

if __name__ == "__main__":
    raise SystemExit(command())
