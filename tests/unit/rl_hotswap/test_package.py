"""The public package."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rl_hotswap


@pytest.mark.parametrize("name", rl_hotswap.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert name in dir(rl_hotswap)
    if name == "from_rllib" and find_spec("ray") is None:
        pytest.skip('needs pip install "rl-hotswap[rllib]"')
    assert getattr(rl_hotswap, name) is not None


@pytest.mark.parametrize(
    ("name", "module", "library", "extra"),
    [
        ("from_sb3", "learner.sb3.adapter", "sb3_contrib.ars.policies", "sb3"),
        ("from_torchrl", "learner.importers.torchrl", "tensordict", "torchrl"),
        ("from_rllib", "learner.importers.rllib", "ray.rllib.connectors.module_to_env", "rllib"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    name: str, module: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delitem(vars(rl_hotswap), name, raising=False)
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf'^{name} needs {library}.*: pip install "rl-hotswap\[{extra}\]"$'):
        getattr(rl_hotswap, name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rl_hotswap.nothing  # noqa: B018


def test_import_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, rl_hotswap; assert not {'torch', 'numpy', 'gymnasium', 'loguru'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["actor", "learner", "shared"])
def test_a_package_that_shadows_ours_is_named_in_one_sentence(package: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import rl_hotswap"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: rl-hotswap needs its own package {package!r}")
    assert str(tmp_path / package) in last
    assert len(last) < 300
