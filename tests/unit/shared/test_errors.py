"""The error tree as its module documents it, and foreign errors mapped with the cause chained."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shared import errors
from shared.engines.importable import load_importable
from shared.engines.onnx_graph import external_initializers
from shared.engines.row_compiler.row_code import MachineCode
from shared.files.storage_errors import remote_storage, storage
from shared.policy.manifest import decode_manifest
from shared.policy.probe import decode_probe
from shared.policy.program_digest import program_digest
from shared.policy.signing import PublicKey
from shared.policy.weights import decode_weights
from tests.support.tiny_policy import TINY_SIGNATURE


def _tree(cls: type[Exception]) -> list[str]:
    children = [child for child in cls.__subclasses__() if child.__module__ == cls.__module__]
    return [cls.__name__, *(name for child in children for name in _tree(child))]


def test_docstring_shows_the_tree() -> None:
    assert errors.__doc__ is not None
    assert re.findall(r"^[ │├└─]*(\w+)$", errors.__doc__, re.MULTILINE) == _tree(errors.HotswapError)


def _fail(error: Exception, mapping: Callable[[str], object]) -> None:
    with mapping("read it"):  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize(
    ("call", "mapped", "cause"),
    [
        (lambda: _fail(OSError(5, "I/O error"), storage), errors.StoreUnavailable, OSError),
        (lambda: _fail(KeyError("bucket"), remote_storage), errors.StoreUnavailable, KeyError),
        (lambda: decode_manifest(b"{"), errors.ManifestError, msgspec.MsgspecError),
        (lambda: decode_weights(b"\x01" + bytes(7) + b"{"), errors.WeightsError, msgspec.MsgspecError),
        (lambda: decode_probe(b"", TINY_SIGNATURE), errors.ProbeMismatch, errors.WeightsError),
        (lambda: program_digest("torchscript", b""), errors.ProgramError, struct.error),
        (lambda: external_initializers(b"no graph"), errors.ProgramError, Exception),
        (lambda: MachineCode("no assembly", "run"), errors.ProgramUnsupported, RuntimeError),
        (lambda: load_importable(b'{"class_path": "torch.nn:Linear"}', {}, ["torch"]), errors.ProgramError, TypeError),
        (lambda: PublicKey.read(Path("/nowhere/key.pem")), errors.ConfigurationError, FileNotFoundError),
    ],
)
def test_foreign_errors_are_mapped_with_their_cause(
    call: Callable[[], object], mapped: type[errors.HotswapError], cause: type[Exception]
) -> None:
    with pytest.raises(mapped) as caught:
        call()
    assert type(caught.value) is mapped
    assert isinstance(caught.value.__cause__, cause)


def test_one_line_replaces_white_space_and_cuts() -> None:
    assert errors.one_line(ValueError("a\n  b\tc"), 4) == "a b "
