"""The public package."""

import subprocess
import sys
from pathlib import Path

import pytest

import rl_hotswap


@pytest.mark.parametrize("name", rl_hotswap.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert getattr(rl_hotswap, name) is not None
    assert name in dir(rl_hotswap)


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
