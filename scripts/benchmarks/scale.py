"""``benchmark.py scale``: how the cost of replacing a policy grows with models, actors and versions, a plot each."""

from pathlib import Path

from rich.console import Console

from scripts.benchmarks.growth import Growth
from scripts.benchmarks.growth_by_actors import grow_actors
from scripts.benchmarks.growth_by_model_size import grow_models
from scripts.benchmarks.growth_by_versions import grow_versions
from scripts.benchmarks.plot import save_plot
from scripts.benchmarks.result import Result
from scripts.benchmarks.settings import BenchmarkSettings

ACTORS = (1, 2, 4, 8, 16, 32, 64)
VERSIONS = (10, 100, 1_000, 10_000, 100_000)
HIDDEN_SIZES = ((45, 45), (155, 155), (497, 497), (1577, 1577), (1600,) * 11, (2048,) * 60)
"""Of networks with 10 kB, 100 kB, 1 MB, 10 MB, 103 MB and 990 MB of weights."""


def measure_scale(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """All rows of this kind, none of which has a target."""
    rows: list[Result] = []
    console.print("adoption time against model size …")
    rows += _told(grow_models(HIDDEN_SIZES, console), settings.plots, "scale-model-size.png")
    console.print("publish-to-acting against the number of actors …")
    rows += _told(grow_actors(ACTORS, console), settings.plots, "scale-actors.png")
    console.print("store operations against the number of versions …")
    return rows + _told(grow_versions(VERSIONS, console), settings.plots, "scale-versions.png")


def _told(growth: Growth, plots: Path | None, name: str) -> list[Result]:
    if plots is not None:
        save_plot(plots / name, growth.lines(), title=growth.title, x_label=growth.x_label, y_label="milliseconds")
    return growth.rows()
