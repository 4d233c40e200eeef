"""All engines agree on a recurrent policy of nested observation, as measured by the script of that name."""

import pytest

from scripts.conformance.engine_agreement import measure


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_engines_agree_on_a_nested_policy_with_state() -> None:
    agreements = {found.kind: found for found in measure()}
    assert agreements.keys() == {"torchscript", "onnx", "aot", "compile"}
    for found in agreements.values():
        assert found.is_equal, found
        assert found.of_allowed <= 1, found
