"""``python scripts/evaluate.py``: the same as ``rl-hotswap evaluate``."""

import sys

from rl_hotswap.cli.evaluate import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
