"""``python scripts/export_policy.py``: the same as ``rl-hotswap export``."""

import sys

from rl_hotswap.cli.export import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
