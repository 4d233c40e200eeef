"""``python scripts/export_policy.py``: the same as ``rl-hotswap export``."""

from rl_hotswap.cli.export import command

if __name__ == "__main__":
    raise SystemExit(command())
