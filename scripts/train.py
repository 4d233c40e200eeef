"""``python scripts/train.py``: the same as ``rl-hotswap train``."""

import sys

from rl_hotswap.cli.train import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
