"""Stores that the contract suites of policy stores run on."""

from collections.abc import Iterator

import pytest

from tests.support.store_cases import CASES, StoreCase, store_case


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[StoreCase]:
    """An empty place for a store of each kind."""
    with store_case(request.param) as made:
        yield made
