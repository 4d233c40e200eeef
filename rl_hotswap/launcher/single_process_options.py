"""The flags of ``rl_hotswap.launcher.single_process``. No torch here: who hands them over starts at once."""

from dataclasses import dataclass

from learner.training.run_options import LearnerRun
from rl_hotswap.cli.acting_options import ActingOptions


@dataclass(frozen=True, kw_only=True)
class SingleProcessRun(ActingOptions, LearnerRun):
    """Act and learn by turns in this process: what ``scripts/train.py --actors 0`` starts."""
