"""The limits under which the sandbox process runs programs: what they may reach, and how much they may use.

``give_up_writing`` and ``confine`` apply for good to all that the process may reach; ``limited`` applies to a program.
"""

import resource
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from actor.sandbox.landlock import restrict_files
from actor.sandbox.seccomp import filter_system_calls

_PAGE_BYTES = resource.getpagesize()
_MEMORY = resource.RLIMIT_AS if sys.platform == "linux" else resource.RLIMIT_DATA  # macOS does not limit the former
_LIBRARY_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
_SYSTEM_PATHS = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),  # shared libraries
    *("/dev/null", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"),
)


class ProgramLimits(msgspec.Struct, frozen=True):
    """The limits of one program, beyond the memory and the CPU time that the process uses before it."""

    memory_bytes: int
    cpu_s: float
    file_bytes: int


def give_up_writing() -> None:
    """Give up writing to files and starting programs, if this system can. Call it before the first thread starts.

    Landlock restricts the calling thread, and those that it starts; libraries start threads when they are imported.
    """
    restrict_files([Path("/")])


def confine() -> None:
    """Give up files, network, new processes and signals, as far as this system can; see ``docs/security.md``.

    Libraries that are imported by now stay usable. Call it before the first byte of a program is read. Threads that run
    already keep the right to read files only.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # ONNX Runtime writes to files in memory, which Landlock allows; the filter cannot tell them from others.
    has_landlock = restrict_files(_readable(), map(Path, sys.path))
    filter_system_calls(writes_files=has_landlock)


@contextmanager
def limited(limits: ProgramLimits) -> Iterator[None]:
    """Limit memory, CPU time and the size of written files while the context lasts.

    At the limit an allocation fails, a write fails, and SIGXCPU ends the process.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    bounds = {
        _MEMORY: _address_space_bytes() + limits.memory_bytes,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime + limits.cpu_s) + 1,
        resource.RLIMIT_FSIZE: limits.file_bytes,
    }
    before = {kind: resource.getrlimit(kind) for kind in bounds}
    for kind, bound in bounds.items():
        _, hard = before[kind]
        _set_limit(kind, bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard)
    try:
        yield
    finally:
        for kind, (soft, hard) in before.items():
            _set_limit(kind, soft, hard)


def _set_limit(kind: int, soft: int, hard: int) -> None:
    with suppress(*(() if sys.platform == "linux" else (OSError, ValueError))):  # macOS refuses some
        resource.setrlimit(kind, (soft, hard))


def _address_space_bytes() -> int:
    """Return the size of this process's address space, or 0 without /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * _PAGE_BYTES if statm.exists() else 0


def _readable() -> set[Path]:
    """Return the installation of Python and of the packages that are imported now, and the system's libraries."""
    paths = {Path(sysconfig.get_path(name)) for name in _LIBRARY_PATHS} | set(map(Path, _SYSTEM_PATHS))
    for name, module in tuple(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and name.partition(".")[0] == name:
            path = Path(file)
            paths.add(path.parent if path.name == "__init__.py" else path)
    return {path for path in paths if not paths.intersection(path.parents)}
