"""``rl-hotswap learn``: the same as ``python -m learner.run``."""

from collections.abc import Sequence

from learner.run import main
from learner.training.run_options import LearnerRun
from shared.process.command_line import run_command

COMMAND = "rl-hotswap learn"


def command(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments`` and return its exit code."""
    return run_command(COMMAND, LearnerRun, main, arguments)
