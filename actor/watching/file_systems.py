"""The file systems whose events cover every change, and those that other machines change without events."""

from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# Their events cover only changes by this machine, and a learner is often on another one. FUSE carries most of the rest
# (sshfs, GlusterFS, buckets), as fuse.sshfs and so on.
# fmt: off
_SHARED = frozenset((
    "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "prl_fs", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    "webdav",
))
# They change only through the watched mount itself. An overlay's layers can be changed below it.
_LOCAL = frozenset((
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ramfs", "reiserfs", "tmpfs", "vfat",
    "xfs", "zfs",
))
# fmt: on


def shared_file_system(path: Path) -> str | None:
    """Return the type of the file system of ``path`` if other machines may change it, else None."""
    kind = _type_below(path)
    return kind if kind in _SHARED or kind.startswith("fuse.") else None


def reports_all_changes(path: Path) -> bool:
    """Return True when the events of the file system of ``path`` are known to cover every change."""
    return _type_below(path) in _LOCAL


def _type_below(path: Path) -> str:
    mounts = [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
    return file_system_type(path.resolve(), mounts)


def file_system_type(path: Path, mounts: Iterable[tuple[Path, str]]) -> str:
    """Return the type of the innermost mount that holds the absolute ``path``, the last of equals, or ""."""
    depth, found = 0, ""
    for where, kind in mounts:
        if len(where.parts) >= depth and path.is_relative_to(where):
            depth, found = len(where.parts), kind
    return found
