"""Policies of other libraries act on every engine as they act themselves, on 1,000 observations each."""

import importlib.util
from typing import Any

import pytest

from scripts.conformance.agreement import compare
from scripts.conformance.importer_agreement import cases

PACKAGES = {"cleanrl": "torch", "torchrl": "torchrl", "rllib": "ray"}


def imported_cases() -> list[Any]:
    found = []
    for library, package in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            reason = f'needs pip install "rl-hotswap[{library}]"'
            found.append(pytest.param(None, id=library, marks=pytest.mark.skip(reason=reason)))
        else:
            found += [pytest.param(case, id=case.name) for case in cases(library)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", imported_cases())
def test_the_library_and_the_artifact_agree(case: Any) -> None:
    for found in compare(case, 1000):
        assert found.disagreeing == 0, found
        assert found.different_actions > 1, found
