"""``python scripts/keys.py``: the same as ``rl-hotswap keys``."""

from rl_hotswap.cli.keys import command

if __name__ == "__main__":
    raise SystemExit(command())
