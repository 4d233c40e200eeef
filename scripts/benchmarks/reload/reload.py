"""``benchmark.py reload``: the cost of replacing the policy for the environment loop, and the integrity of actions."""

from rich.console import Console

from scripts.benchmarks.common.result import Result
from scripts.benchmarks.common.rounds import BenchmarkSettings
from scripts.benchmarks.reload.action_integrity import measure_action_integrity
from scripts.benchmarks.reload.resources import measure_memory, measure_watching
from scripts.benchmarks.reload.step_times import measure_prefetching, measure_step_times

_TRANSITIONS = 10_000_000
_ADOPTIONS = 10_000
_BUDGET_S = 100.0  # for each of these two; on a slow machine the result states how many there were
_IDLE_S = 60.0
_VERSIONS = 1_000


def measure_reload(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Return all results of this kind. Actors run in their own processes beside a publishing process."""
    console.print("step times with and without adoptions …")
    results = measure_step_times(settings.rounds)
    console.print("step times with and without the prefetcher …")
    results += measure_prefetching(settings.rounds, console)
    console.print(f"{_TRANSITIONS:,} transitions, each computed again …")
    results += measure_action_integrity(_TRANSITIONS, console, budget_s=_BUDGET_S)
    console.print(f"memory after {_ADOPTIONS:,} adoptions …")
    results += measure_memory(_ADOPTIONS, console, budget_s=_BUDGET_S)
    console.print(f"watching a store of {_VERSIONS:,} versions …")
    return results + measure_watching(_VERSIONS, _IDLE_S)
