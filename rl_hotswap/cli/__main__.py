"""``python -m rl_hotswap.cli``: the same as ``rl-hotswap``."""

import sys

from rl_hotswap.cli.main import main

sys.exit(main())
