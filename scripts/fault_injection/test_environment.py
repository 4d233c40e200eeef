"""Where a chaos run takes place: a temporary directory, its own small disk, and its own view of what is mounted."""

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
    """``disk`` holds the run; ``temporary`` is TMPDIR of all that is started. ``mounts``: whether anything can be.

    Mounts are this process's and its children's own, so they vanish with them, and nobody else sees them.
    """

    def __init__(self, disk_bytes: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rl-hotswap-chaos-"))
        self.disk = self.path / "disk"
        self.temporary = self.path / "temporary"
        self.outputs = self.path / "outputs"
        for directory in (self.disk, self.temporary, self.outputs):
            directory.mkdir()
        self.mounts = _own_mounts() and mount("-t", "tmpfs", "-o", f"size={disk_bytes}", "none", str(self.disk))
        self.own_shared_memory = self.mounts and mount(
            "-t", "tmpfs", "-o", f"size={_SHARED_MEMORY_BYTES}", "none", str(_SHARED_MEMORY)
        )

    @property
    def environment(self) -> dict[str, str]:
        """What marks every process of this run, and where it keeps its temporary files and what it remembers."""
        cache = {"XDG_CACHE_HOME": str(self.path / "cache")}
        return {TOKEN_VARIABLE: self.path.name, "TMPDIR": str(self.temporary), **cache}

    def leaked(self) -> list[str]:
        """Shared memory and temporary files that nobody took away."""
        left = [str(path) for path in self.temporary.glob("rl-hotswap-*")]  # others keep caches there
        if self.own_shared_memory:
            left += [str(path) for path in _SHARED_MEMORY.iterdir()]
        return left

    def close(self) -> None:
        """Take it all away."""
        if self.own_shared_memory:
            unmount(_SHARED_MEMORY)
        if self.mounts:
            unmount(self.disk)
        shutil.rmtree(self.path, ignore_errors=True)


def mount(*arguments: str) -> bool:
    """Whether ``mount`` could do it."""
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def unmount(path: Path) -> bool:
    """Take a mount out of sight now, whoever has files open on it."""
    return subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False).returncode == 0


def bind_read_only(path: Path) -> bool:
    """Make ``path`` refuse whatever is written by its name, until it is unmounted."""
    if not mount("--bind", str(path), str(path)):
        return False
    if mount("-o", "remount,bind,ro", str(path)):
        return True
    unmount(path)
    return False


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent is gone, instead of the system: none can hide."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _own_mounts() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False
    return mount("--make-rprivate", "/")
