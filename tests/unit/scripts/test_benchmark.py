"""Results of ``scripts/benchmark.py``: status, table, JSON and Markdown; and the failure of one kind."""

import inspect
import io
import json
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scripts.benchmark import BenchmarkOptions, Kind, measure_in_process, measure_of
from scripts.benchmarks.common.result import Line, Result, number, save_plot, show, write_json, write_markdown
from scripts.benchmarks.common.rounds import BenchmarkSettings, interleave, ratios
from shared.errors import ConfigurationError

_FASTER = Result.of("faster than others", [3.0, 2.0, 4.0], "x", "in turn", at_least=2.5)
_LATE = Result.of("time to act", [12.0, 11.0, 30.0], "ms", "one actor", at_most=10.0)
_CONTEXT = Result.of("context", [123456.0], "steps/s", "by the book")
_RESULTS = [_FASTER, _LATE, _CONTEXT]


def _quiet_console() -> Console:
    return Console(record=True, width=120, soft_wrap=True, file=io.StringIO())


def test_a_result_is_a_median_with_its_range_and_a_target_with_a_direction() -> None:
    assert (_FASTER.value, _FASTER.min, _FASTER.max) == (3.0, 2.0, 4.0)
    assert (_FASTER.reached, _FASTER.to_reach, _FASTER.status) == (True, ">= 2.5", "reached")
    assert (_LATE.reached, _LATE.to_reach, _LATE.status) == (False, "<= 10", "missed by 2")
    assert (_CONTEXT.reached, _CONTEXT.to_reach, _CONTEXT.status) == (None, "", "")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.floats(-1e6, 1e6))
def test_exactly_one_direction_misses_unless_the_target_is_met(values: list[float], target: float) -> None:
    low = Result.of("name", values, "x", "", at_most=target)
    high = Result.of("name", values, "x", "", at_least=target)
    assert (low.reached and high.reached) == (low.value == target)
    assert low.reached or high.reached


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e7, "10M"),
        (1234567, "1.23M"),
        (12345.6, "12.3k"),
        (1234.4, "1,234"),
        (999.7, "1,000"),
        (1.2345, "1.23"),
        (0, "0"),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_measurements_are_interleaved() -> None:
    calls = []
    clock = count()

    def measure(name: str) -> float:
        calls.append(name)
        return float(next(clock))

    values = interleave({name: lambda name=name: measure(name) for name in "ABC"}, 2, warm_up=1)
    assert "".join(calls) == "ABCABCABC"
    assert values == {"A": [3.0, 6.0], "B": [4.0, 7.0], "C": [5.0, 8.0]}


def test_ratios_pair_values_of_the_same_round() -> None:
    assert ratios([10.0, 1.0], [5.0, 0.5]) == [2.0, 2.0]
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_the_table_shows_every_result_with_its_status() -> None:
    console = _quiet_console()
    show(_RESULTS, console)
    text = console.export_text()
    for result in _RESULTS:
        (line,) = [line for line in text.splitlines() if result.name in line]
        assert result.to_reach in line
        assert result.status in line


def test_json_has_exactly_the_documented_keys(tmp_path: Path) -> None:
    write_json(_RESULTS, tmp_path / "results.json")
    first, _, last = json.loads((tmp_path / "results.json").read_text())
    numbers = {"value": 3.0, "target": 2.5, "reached": True, "min": 2.0, "max": 4.0}
    assert first == {"row": "faster than others", **numbers, "unit": "x", "how": "in turn"}
    assert (last["target"], last["reached"]) == (None, None)


def test_markdown_is_one_table_of_all_results(tmp_path: Path) -> None:
    write_markdown(_RESULTS, tmp_path / "results.md")
    machine, _, *table = (tmp_path / "results.md").read_text().splitlines()
    assert machine.startswith("Measured on ")
    assert len(table) == 2 + len(_RESULTS)
    assert {line.count("|") for line in table} == {5}
    assert table[3] == "| time to act | <= 10 | 12 ms (11 to 30) | missed by 2 |"


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "cost.png"
    lines = [Line("ours", [1, 10, 100], [1, 2, 3], [1, 1, 2], [2, 3, 4]), Line("theirs", [1, 10], [2, 30])]
    save_plot(path, lines, title="cost", x_label="actors", y_label="ms")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_has_a_measuring_function(kind: Kind) -> None:
    assert list(inspect.signature(measure_of(kind)).parameters) == ["settings", "console"]


def test_a_failed_kind_is_reported_in_a_line() -> None:
    console = _quiet_console()
    absent: Kind = "absent"  # type: ignore[assignment]
    assert measure_in_process(absent, BenchmarkOptions(what="all"), console) is None
    assert "absent failed, continuing with the others: KeyError" in console.export_text()


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seeds": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="at least 1; found 0"):
        BenchmarkSettings(**wrong)
