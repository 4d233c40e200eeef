"""``python scripts/rollback.py``: the same as ``rl-hotswap rollback``."""

import sys

from rl_hotswap.cli.rollback import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
