"""``python scripts/rollback.py``: the same as ``rl-hotswap rollback``."""

from rl_hotswap.cli.rollback import command

if __name__ == "__main__":
    raise SystemExit(command())
