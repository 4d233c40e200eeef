"""The corpora of the fuzzers, replayed without them: every input is accepted, or refused by one line of ours."""

from importlib import import_module
from pathlib import Path
from random import Random

import pytest

from scripts.fuzz.targets import CORPUS, TARGETS, outcome

MUTANTS = 200


def _inputs(target: str) -> list[Path]:
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_is_accepted_or_refused(target: str) -> None:
    run = import_module(f"scripts.fuzz.{target}").run
    assert any(outcome(run, path.read_bytes()) is None for path in _inputs(target)), "none is accepted"


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_are_accepted_or_refused(target: str) -> None:
    module, random = import_module(f"scripts.fuzz.{target}"), Random(0)
    inputs = [path.read_bytes() for path in _inputs(target)]
    for _ in range(MUTANTS):
        data = random.choice(inputs)
        mutated = module.mutate(data, random) if hasattr(module, "mutate") else data[: random.randrange(len(data) + 1)]
        outcome(module.run, mutated)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000
