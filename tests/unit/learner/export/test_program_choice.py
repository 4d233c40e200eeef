"""The programs that an export makes when some are named."""

import pytest

from learner.export.program_choice import programs_of
from shared.errors import ConfigurationError


@pytest.mark.parametrize(
    ("named", "short", "expected"),
    [
        ((), {}, ("torchscript", "onnx")),
        (("executorch",), {}, ("torchscript", "onnx", "executorch")),
        (("aot", "importable"), {}, ("torchscript", "onnx", "aot", "importable")),
        (("executorch", "onnx"), {}, ("onnx", "executorch")),
        (("torchscript",), {}, ("torchscript",)),
        ((), {"onnx": False}, ("torchscript",)),
        ((), {"aot": True}, ("torchscript", "onnx", "aot")),
        (("onnx",), {"aot": True}, ("onnx", "aot")),
    ],
)
def test_the_usual_programs_are_made_unless_one_of_them_is_named(named: tuple, short: dict, expected: tuple) -> None:
    assert programs_of(named, **short) == expected


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="torchscript, onnx, executorch, aot, importable: found 'onxx'"):
        programs_of(("onxx",))  # type: ignore[arg-type]
