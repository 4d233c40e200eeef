"""Which way to step several environments at once: the choice, and what decides between one process and several."""

import math
import os
from typing import Literal

VectorChoice = Literal["auto", "entry_point", "sync", "async", "envpool"]

# What it costs to have one environment stepped by another process: two messages, and two changes of process.
MESSAGES_S = 100e-6
# Cores are shared with learners and other actors, and a process for each environment takes memory: it has to pay well.
_CLEARLY_FASTER = 1.5


def async_pays(step_s: float, num_envs: int, cores: int) -> bool:
    """Whether ``num_envs`` environments, ``step_s`` seconds a step each, are faster in a process each than in turn."""
    in_turn_s = num_envs * step_s
    in_processes_s = num_envs * MESSAGES_S + math.ceil(num_envs / cores) * step_s
    return in_processes_s * _CLEARLY_FASTER < in_turn_s


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
