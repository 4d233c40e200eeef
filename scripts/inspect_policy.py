"""``python scripts/inspect_policy.py``: the same as ``rl-hotswap inspect``."""

from rl_hotswap.cli.inspect import command

if __name__ == "__main__":
    raise SystemExit(command())
