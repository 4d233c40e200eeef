"""``benchmark.py scale``: growth of the cost of replacing a policy with model size, actors and versions."""

from pathlib import Path

from rich.console import Console

from scripts.benchmarks.common.plot import save_plot
from scripts.benchmarks.common.result import Result
from scripts.benchmarks.common.settings import BenchmarkSettings
from scripts.benchmarks.scale.actors import grow_actors
from scripts.benchmarks.scale.growth import Growth
from scripts.benchmarks.scale.model_size import grow_models
from scripts.benchmarks.scale.versions import grow_versions

ACTORS = (1, 2, 4, 8, 16, 32, 64)
VERSIONS = (10, 100, 1_000, 10_000, 100_000)
HIDDEN_SIZES = ((45, 45), (155, 155), (497, 497), (1577, 1577), (1600,) * 11, (2048,) * 60)
"""Networks with 10 kB, 100 kB, 1 MB, 10 MB, 103 MB and 990 MB of weights."""


def measure_scale(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Return all results of this kind, which have no targets."""
    results: list[Result] = []
    console.print("adoption time by model size …")
    results += _results(grow_models(HIDDEN_SIZES, console), settings.plots, "scale-model-size.png")
    console.print("time from publishing to acting by number of actors …")
    results += _results(grow_actors(ACTORS, console), settings.plots, "scale-actors.png")
    console.print("store operations by number of versions …")
    return results + _results(grow_versions(VERSIONS, console), settings.plots, "scale-versions.png")


def _results(growth: Growth, plots: Path | None, name: str) -> list[Result]:
    if plots is not None:
        save_plot(plots / name, growth.lines(), title=growth.title, x_label=growth.x_label, y_label="milliseconds")
    return growth.results()
