"""``python scripts/conformance/importer_agreement.py``: actions of other libraries and of published versions."""

import importlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from scripts.conformance.agreement import ATOL, RTOL, Case, compare
from shared.errors import ConfigurationError
from shared.policy.manifest import ProgramKind
from shared.process.command_line import run_command
from shared.process.log import set_up_logging

COMMAND = "python scripts/conformance/importer_agreement.py"

_PACKAGES = {"sb3": "sb3_contrib", "torchrl": "torchrl", "cleanrl": "torch", "rllib": "ray"}


@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    """Compare the actions of other libraries with published versions on every engine.

    Exit code 0: the actions agree for all observations. 1: they do not.
    """

    libraries: tuple[Literal["sb3", "torchrl", "cleanrl", "rllib"], ...] = ()
    """Libraries to compare. Default: those that are installed."""
    observations: int = 1000
    """Observations for each case, rounded up to whole batches of 50."""
    programs: tuple[ProgramKind, ...] = ()
    """Programs to publish; see the flag of rl-hotswap export."""
    only: str = ""
    """Prefix of the names of cases, such as "SAC" or "PPO CnnPolicy"."""


def cases(library: str) -> Iterator[Case]:
    """Yield the cases of one library."""
    module = importlib.import_module(f"scripts.conformance.{library}_cases")
    yield from module.model_cases() if library == "sb3" else module.cases()


def main(options: AgreementOptions) -> int:
    set_up_logging("importer_agreement", None, terminal_level="WARNING")
    began_s = time.monotonic()
    installed = [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is not None]
    missing = set(options.libraries) - set(installed)
    if missing:
        raise ConfigurationError(
            f'install {", ".join(sorted(missing))}: pip install "rl-hotswap[{sorted(missing)[0]}]"'
        )
    title = f"actions of the library and of published versions (tolerance {ATOL:g} + {RTOL:g} * |x|)"
    table = Table(title=title, title_justify="left")
    columns = "policy, engine, method, observations, different actions, disagreeing, largest difference"
    for column in columns.split(", "):
        table.add_column(column, overflow="fold")
    policies = disagreeing = 0
    for library in options.libraries or installed:
        for case in cases(library):
            if not case.name.startswith(options.only):
                continue
            policies += 1
            for found in compare(case, options.observations, programs=options.programs):
                disagreeing += found.disagreeing
                counts = (f"{count:,}" for count in (found.observations, found.different_actions, found.disagreeing))
                table.add_row(found.case, found.engine, found.method, *counts, f"{found.largest_difference:.1e}")
    Console(width=150).print(table)
    print(f"{policies} policies, {disagreeing} observations disagree; {time.monotonic() - began_s:.0f} s")
    return 0 if disagreeing == 0 else 1


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, AgreementOptions, main))
