"""Packages of native code are refused before their code is loaded."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from shared.engines import aot
from shared.engines.aot import BUILD_KEY, LAYOUT_KEY, AotEngine, build_name
from shared.errors import NotTrusted, PermanentLoadError, ProgramError

_METADATA = f'{{{{"{BUILD_KEY}": "{{}}", "{LAYOUT_KEY}": "{{{{}}}}"}}}}'


def package(metadata: str) -> bytes:
    """Return a package with metadata and without code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        texts = {"archive_format": "pt2", "archive_version": "0", ".data/version": "1", "byteorder": "little"}
        for name, text in texts.items():
            archive.writestr(f"policy/{name}", text)
        archive.writestr("policy/data/aotinductor/model/x.wrapper_metadata.json", metadata)
    return buffer.getvalue()


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: object) -> Any:
        raise AssertionError("its code was loaded")

    monkeypatch.setattr(aot, "_load", load)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    ("data", "trust_native", "error", "message"),
    [
        (package("{}"), False, NotTrusted, "--trust-native"),
        (b"", True, ProgramError, "not an AOTInductor package"),
        (b"no archive", True, ProgramError, "not an AOTInductor package"),
        (package("{"), True, ProgramError, "not an AOTInductor package"),
        (package("{}"), True, ProgramError, "not an AOTInductor package of this project"),
        (package(_METADATA.format("torch 1.0, SSE")), True, ProgramError, "needs torch 1.0, SSE, found torch"),
    ],
    ids=["not trusted", "empty", "no archive", "no metadata", "another maker", "another machine"],
)
def test_refused_before_its_code_is_loaded(
    data: bytes, trust_native: bool, error: type[PermanentLoadError], message: str
) -> None:
    with pytest.raises(error, match=message):
        AotEngine(data, {"weight": np.zeros(3, np.float32)}, trust_native=trust_native)


def test_package_without_code_is_refused() -> None:
    with pytest.raises(ProgramError, match="AOTInductor"):
        AotEngine(package(_METADATA.format(build_name())), {}, trust_native=True)
