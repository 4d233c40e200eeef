"""The share of torch.nn that can be exported, as ``scripts/conformance/export_coverage.py`` prints it."""

import pytest

from scripts.conformance.export_coverage import all_cases, measure, uncovered


def test_every_class_of_torch_nn_has_a_case() -> None:
    assert not uncovered()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nearly_all_of_torch_nn_exports_by_some_method_and_equals_eager() -> None:
    outcomes = [measure(case) for case in all_cases()]
    refused = {outcome.name: outcome.reason for outcome in outcomes if outcome.method is None}
    assert len(outcomes) >= 120
    assert len(refused) <= 0.02 * len(outcomes), refused
    assert all(refused.values())
