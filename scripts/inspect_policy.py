"""``python scripts/inspect_policy.py``: the same as ``rl-hotswap inspect``."""

import sys

from rl_hotswap.cli.inspect import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
