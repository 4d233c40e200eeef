"""``benchmark.py reload``: what replacing the policy costs the environment loop, and that nothing is torn by it."""

from rich.console import Console

from scripts.benchmarks.action_integrity import measure_action_integrity
from scripts.benchmarks.memory import measure_memory
from scripts.benchmarks.result import Result
from scripts.benchmarks.settings import BenchmarkSettings
from scripts.benchmarks.step_times import measure_step_times
from scripts.benchmarks.watching import measure_watching

_TRANSITIONS = 10_000_000
_ADOPTIONS = 10_000
_BUDGET_S = 100.0  # for each of these two: on a machine that is too slow for it, the row says how many there were
_IDLE_S = 60.0
_VERSIONS = 1_000


def measure_reload(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """All rows of this kind. Each acts in processes of its own, beside a process that publishes."""
    console.print("step times with adoptions and without …")
    rows = measure_step_times(settings.rounds)
    console.print(f"{_TRANSITIONS:,} transitions, each derived again …")
    rows += measure_action_integrity(_TRANSITIONS, console, budget_s=_BUDGET_S)
    console.print(f"memory after {_ADOPTIONS:,} adoptions …")
    rows += measure_memory(_ADOPTIONS, console, budget_s=_BUDGET_S)
    console.print(f"watching a store of {_VERSIONS:,} versions …")
    return rows + measure_watching(_VERSIONS, _IDLE_S)
