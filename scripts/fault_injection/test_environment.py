"""The test environment of a chaos run: a temporary directory, a small disk, and a private mount namespace."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_PR_SET_CHILD_SUBREAPER = 36
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_BYTES = 2**28

TOKEN_VARIABLE = "RL_HOTSWAP_CHAOS"


class TestEnvironment:
    """Directories of a chaos run: ``disk`` for the run, ``temporary`` (TMPDIR), and ``outputs`` of all processes.

    ``mounts`` is true when mounting is possible, which needs root. Mounts are private to this process and its children.
    """

    def __init__(self, disk_bytes: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rl-hotswap-chaos-"))
        self.disk = self.path / "disk"
        self.temporary = self.path / "temporary"
        self.outputs = self.path / "outputs"
        for directory in (self.disk, self.temporary, self.outputs):
            directory.mkdir()
        self.mounts = _own_mounts() and _mount_memory(self.disk, disk_bytes)
        self.own_shared_memory = self.mounts and _mount_memory(_SHARED_MEMORY, _SHARED_MEMORY_BYTES)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of all processes: a mark, the temporary directory and the cache directory."""
        cache = str(self.path / "cache")
        return {TOKEN_VARIABLE: self.path.name, "TMPDIR": str(self.temporary), "XDG_CACHE_HOME": cache}

    def leaked(self) -> list[str]:
        """Return shared memory and temporary files that are left."""
        left = [str(path) for path in self.temporary.glob("rl-hotswap-*")]  # libraries keep caches there
        if self.own_shared_memory:
            left += [str(path) for path in _SHARED_MEMORY.iterdir()]
        return left

    def close(self) -> None:
        if self.own_shared_memory:
            unmount(_SHARED_MEMORY)
        if self.mounts:
            unmount(self.disk)
        shutil.rmtree(self.path, ignore_errors=True)


def mount(*arguments: str) -> bool:
    """Call ``mount`` and return True if it succeeded."""
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _mount_memory(path: Path, size_bytes: int) -> bool:
    return mount("-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(path))


def unmount(path: Path) -> bool:
    """Detach a mount now, even while files on it are open."""
    return subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False).returncode == 0


def bind_read_only(path: Path) -> bool:
    """Make ``path`` read-only until it is unmounted; return True if that succeeded."""
    if not mount("--bind", str(path), str(path)):
        return False
    if mount("-o", "remount,bind,ro", str(path)):
        return True
    unmount(path)
    return False


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent has ended, so that orphans are found."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _own_mounts() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False
    return mount("--make-rprivate", "/")
