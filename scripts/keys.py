"""``python scripts/keys.py``: the same as ``rl-hotswap keys``."""

import sys

from rl_hotswap.cli.keys import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
