"""Which file systems tell of every change: not those that are changed from elsewhere, nor all others."""

from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# Their events tell of what this machine changes, and a learner is often on another one. FUSE carries most of the rest
# (sshfs, GlusterFS, buckets), as fuse.sshfs and so on.
# fmt: off
_SHARED = frozenset((
    "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "prl_fs", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    "webdav",
))
# What nobody can change but through the very mount that is watched. An overlay's layers can be changed below it.
_ALL_TOLD = frozenset((
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ramfs", "reiserfs", "tmpfs", "vfat",
    "xfs", "zfs",
))
# fmt: on


def shared_file_system(path: Path) -> str | None:
    """The type of the file system that holds ``path``, where that may be changed from elsewhere; None where not."""
    kind = _type_below(path)
    return kind if kind in _SHARED or kind.startswith("fuse.") else None


def tells_of_all(path: Path) -> bool:
    """Whether the file system that holds ``path`` tells of whatever happens to it; some neither do nor are shared."""
    return _type_below(path) in _ALL_TOLD


def _type_below(path: Path) -> str:
    mounts = [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
    return file_system_type(path.resolve(), mounts)


def file_system_type(path: Path, mounts: Iterable[tuple[Path, str]]) -> str:
    """The type of the innermost mount that holds the absolute ``path``, the last of several; "" where none does."""
    depth, found = 0, ""
    for where, kind in mounts:
        if len(where.parts) >= depth and path.is_relative_to(where):
            depth, found = len(where.parts), kind
    return found
