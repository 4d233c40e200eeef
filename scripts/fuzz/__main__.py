"""``python -m scripts.fuzz TARGET``: fuzz one target, guided by the coverage of this project's code."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # extra: fuzz

_MAX_BYTES = 2**16
_TIMEOUT_S = 10
_MAX_MEMORY_MB = 8192  # atheris keeps 160 bytes for each call of instrumented code: 2 GB in twenty minutes


def main() -> None:
    """Fuzz until a finding, which is left as a file in ``--work``, or for ``--seconds``."""
    with atheris.instrument_imports(include=["shared", "actor"]):
        from scripts.fuzz.targets import CORPUS, TARGETS, outcome
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=1200)
    parser.add_argument("--work", type=Path, default=Path("/tmp/fuzz"), help="findings and the growing corpus")
    options = parser.parse_args()
    with atheris.instrument_imports(include=["shared", "actor"]):
        target = import_module(f"scripts.fuzz.{options.target}")
    work, corpus = options.work / options.target, CORPUS / options.target
    work.mkdir(parents=True, exist_ok=True)
    flags = [f"-max_total_time={options.seconds}", f"-timeout={_TIMEOUT_S}", f"-max_len={_MAX_BYTES}"]
    flags += [f"-rss_limit_mb={_MAX_MEMORY_MB}", "-print_final_stats=1"]
    flags += [f"-artifact_prefix={options.work}/{options.target}-"]
    mutate = getattr(target, "mutate", None)
    setup = {} if mutate is None else {"custom_mutator": _mixed(mutate)}
    atheris.Setup([sys.argv[0], *flags, str(work), str(corpus)], lambda data: outcome(target.run, data), **setup)
    atheris.Fuzz()


def _mixed(mutate: Callable[[bytes, Random], bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that changes structure half of the time, and bytes otherwise."""

    def mutate_one(data: bytes, max_size: int, seed: int) -> bytes:
        return atheris.Mutate(data, max_size) if seed % 2 else mutate(data, Random(seed))[:max_size]

    return mutate_one


if __name__ == "__main__":
    main()
