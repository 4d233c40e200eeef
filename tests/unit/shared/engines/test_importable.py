import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.engines.eager import module_tensors
from shared.engines.importable import ImportablePolicy, encode_importable, load_importable
from shared.errors import NotTrusted, ProgramError, WeightsError
from tests.support.tiny_policy import TinyPolicy

TINY = ImportablePolicy("tests.support.tiny_policy:TinyPolicy", {"hidden": 5})


def weights(hidden: int = 5) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in module_tensors(TinyPolicy(hidden)).items()}


def load(importable: ImportablePolicy, *trusted: str) -> torch.nn.Module:
    return load_importable(encode_importable(importable), weights(), trusted)


def test_builds_the_class_with_its_arguments_and_weights() -> None:
    mine = weights()
    module = load_importable(encode_importable(TINY), mine, ["tests"])
    assert isinstance(module, TinyPolicy)
    assert not module.training
    assert module.body.out_features == 5
    for name, tensor in module_tensors(module).items():
        np.testing.assert_array_equal(tensor.numpy(), mine[name])


def test_takes_tensors_as_well_as_arrays() -> None:
    load_importable(encode_importable(TINY), TinyPolicy(5).state_dict(), ["tests"])


@pytest.mark.parametrize("prefix", ["tests", "tests.support.tiny_policy"])
def test_a_prefix_allows_a_module_and_its_submodules(prefix: str) -> None:
    load(TINY, "elsewhere", prefix)


@pytest.mark.parametrize(
    "prefixes", [(), ("test",), ("tests.tiny",), ("tests.support.tiny_policy.x",), ("",), ("tests.",)]
)
def test_nothing_else_is_allowed(prefixes: tuple[str, ...]) -> None:
    with pytest.raises(NotTrusted, match=r"--trust-module tests\.support\.tiny_policy"):
        load(TINY, *prefixes)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file that the module ``leaves_a_mark`` writes when it is imported."""
    mark = tmp_path / "imported"
    (tmp_path / "leaves_a_mark.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nimport torch\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield mark
    sys.modules.pop("leaves_a_mark", None)


def test_untrusted_modules_are_not_imported(marker: Path) -> None:
    with pytest.raises(NotTrusted):
        load(ImportablePolicy("leaves_a_mark:Policy"), "tests")
    assert not marker.exists()


@pytest.mark.parametrize("path", ["leaves_a_mark:torch.nn.Linear", "leaves_a_mark:torch.nn.Module"])
def test_names_imported_by_a_trusted_module_are_not_trusted(marker: Path, path: str) -> None:
    with pytest.raises(NotTrusted, match="torch"):
        load(ImportablePolicy(path, {"in_features": 1, "out_features": 1}), "leaves_a_mark")


@pytest.mark.parametrize(
    "path",
    ["tests.support.tiny_policy:acting_signature", "tests.support.policies:CASES", "tests.support.waiting:Running"],
)
def test_only_modules_of_torch_are_built(path: str) -> None:
    with pytest.raises(NotTrusted, match="not a subclass"):
        load(ImportablePolicy(path), "tests")


@pytest.mark.parametrize(
    "path", ["", "tests", "tests:", ":TinyPolicy", "tests..tiny_policy:T", "a b:c", "a:b()", "a:b:c"]
)
def test_malformed_class_paths_are_refused(path: str) -> None:
    with pytest.raises(ProgramError, match=r"package\.module:Class"):
        load(ImportablePolicy(path), "tests", "a")


@pytest.mark.parametrize(
    ("importable", "message"),
    [
        (ImportablePolicy("tests.no_such_module:Policy"), "could not be imported: ModuleNotFoundError"),
        (ImportablePolicy("tests.support.tiny_policy:NoSuchClass"), "could not be imported: AttributeError"),
        (ImportablePolicy("tests.support.tiny_policy:TinyPolicy", {"hiden": 5}), "could not be constructed: TypeError"),
    ],
    ids=["module", "class", "argument"],
)
def test_failed_construction_is_a_program_error_with_the_reason(importable: ImportablePolicy, message: str) -> None:
    with pytest.raises(ProgramError, match=message) as caught:
        load(importable, "tests")
    assert caught.value.__cause__ is not None


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"body\.weight"):
        load_importable(encode_importable(TINY), weights(hidden=6), ["tests"])


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"class_path": 3}', b'{"class_path": "a:b", "x": 1}', b" " * 2**21]
)
def test_malformed_definitions_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match="importable policy"):
        load_importable(data, {}, ["tests"])
