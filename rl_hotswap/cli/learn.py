"""``rl-hotswap learn``: the same as ``python -m learner.run``."""

from functools import partial

from learner.run import main
from learner.training.run_options import LearnerRun
from shared.process.command_line import run_command

command = partial(run_command, "rl-hotswap learn", LearnerRun, main)
