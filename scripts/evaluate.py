"""``python scripts/evaluate.py``: the same as ``rl-hotswap evaluate``."""

from rl_hotswap.cli.evaluate import command

if __name__ == "__main__":
    raise SystemExit(command())
