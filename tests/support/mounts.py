"""Mounted file systems for tests."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[Path]:
    """Mount a file system at ``path``. Skips the test without the rights to."""
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, *arguments, str(path)], capture_output=True, check=False).returncode:
        pytest.skip("mounting takes more rights than these")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
