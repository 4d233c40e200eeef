"""The targets, their corpora, and the outcomes that are allowed."""

from collections.abc import Callable
from pathlib import Path

from shared.errors import HotswapError, printable

CORPUS = Path(__file__).parents[2] / "tests" / "fuzz_corpus"
TARGETS = ("manifest", "safetensors", "onnx_graph", "torchscript", "rollout", "messages")


def outcome(run: Callable[[bytes], None], data: bytes) -> HotswapError | None:
    """Return None if ``run`` accepts ``data``, or the error by which it is refused. Every other error passes."""
    try:
        run(data)
    except HotswapError as error:
        refusal = error
    else:
        return None
    assert str(refusal) == printable(refusal), "the message of an error is one printable line"
    return refusal
