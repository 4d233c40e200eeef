"""Attempts of a confined process at all that the sandbox denies. Each runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actor.sandbox.landlock import landlock_version
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")

_PREAMBLE = """
import ctypes, os, pathlib, signal, socket, subprocess, sys, threading
from actor.sandbox import confinement, seccomp
libc = ctypes.CDLL(None, use_errno=True)
place, other = pathlib.Path(sys.argv[1]), int(sys.argv[2])
inherited = os.open(place / "there", os.O_RDONLY)
"""

DENIED = {
    "create a file": "open(place / 'new', 'x')",
    "write to a file": "open(place / 'there', 'r+')",
    "truncate a file": "os.truncate(place / 'there', 0)",
    "append to a file": "open(place / 'there', 'a')",
    "an unnamed file": "os.open(place, os.O_TMPFILE | os.O_RDWR)",
    "remove a file": "os.unlink(place / 'there')",
    "rename a file": "os.rename(place / 'there', place / 'moved')",
    "link a file": "os.link(place / 'there', place / 'linked')",
    "link to a file": "os.symlink('there', place / 'linked')",
    "change a mode": "os.chmod(place / 'there', 0o777)",
    "make a directory": "os.mkdir(place / 'directory')",
    "write to an open file": "os.ftruncate(inherited, 0)",
    "write to a file by way of /proc": "open(f'/proc/self/fd/{inherited}', 'r+')",
    "TCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "UDP": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "a pair of sockets": "socket.socketpair()",
    "fork": "os.fork()",
    "vfork and exec": "subprocess.run(['/bin/true'])",
    "exec": "os.execv('/bin/true', ['true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "ptrace": "raised(libc.ptrace(16, other, 0, 0))",  # PTRACE_ATTACH
    "kill another process": "os.kill(other, signal.SIGTERM)",
    "a signal to another process's thread": "raised(libc.syscall(234, other, other, 15))",
    "limits of another process": "__import__('resource').prlimit(other, __import__('resource').RLIMIT_NOFILE, (5, 5))",
    "memory of another process": "raised(libc.process_vm_readv(other, None, 0, None, 0, 0))",
    "a device's control": "__import__('fcntl').ioctl(0, __import__('termios').TIOCSTI, b'x')",
    "io_uring": "raised(libc.syscall(425, 1, None))",
    "a namespace": "raised(libc.unshare(0x10000000))",
    "a mount": "raised(libc.mount(b'none', bytes(place), b'tmpfs', 0, None))",
    "privileges": "os.setuid(65534)",
}
_BY_LANDLOCK = {
    "read a file of the system": "open('/etc/passwd')",
    "read a file of the user": "open(place / 'there')",
    "list a directory": "os.listdir(place)",
    "read another process's environment": "open(f'/proc/{other}/environ')",
}


def _run(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "there").write_text("untouched")
    (tmp_path / "there").chmod(0o644)
    with subprocess.Popen(["sleep", "100"]) as other:
        try:
            done = subprocess.run(
                [sys.executable, "-c", _PREAMBLE + code, str(tmp_path), str(other.pid)],
                cwd=REPOSITORY,
                env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
                capture_output=True,
                text=True,
                check=False,
            )
            assert other.poll() is None, "the other process runs on"
        finally:
            other.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "untouched"
    return done


_ATTEMPTS = """
def raised(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "denied")

for name, attempt in ATTEMPTS.items():
    try:
        eval(attempt)
    except PermissionError:
        continue
    except OSError as error:
        print(name, "raised", error)
    else:
        print(name, "succeeded")
"""


def _attempt(tmp_path: Path, confine: str, attempts: dict[str, str]) -> None:
    done = _run(tmp_path, f"ATTEMPTS = {attempts!r}\n{confine}\n{_ATTEMPTS}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_that_a_program_does_not_need_is_denied(tmp_path: Path) -> None:
    by_landlock = _BY_LANDLOCK if landlock_version() else {}
    _attempt(tmp_path, "confinement.confine()", DENIED | by_landlock)


def test_without_landlock_the_filter_of_system_calls_denies_all_but_reading(tmp_path: Path) -> None:
    """``landlock_version`` reports no support, as on a kernel without it."""
    without = "from actor.sandbox import landlock; landlock.landlock_version = lambda: 0"
    _attempt(tmp_path, f"{without}; confinement.confine()", DENIED)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "seccomp.filter_system_calls(writes_files=False)"),
        # Landlock restricts one thread, and those that it starts.
        ("confinement.give_up_writing()", "confinement.confine()"),
    ],
    ids=["by the filter of system calls", "by Landlock"],
)
def test_threads_that_run_already_cannot_write(tmp_path: Path, before: str, after: str) -> None:
    code = f"""
{before}
go, done = threading.Event(), []
def attempt():
    go.wait()
    try:
        done.append(open(place / "new", "x"))
    except PermissionError as error:
        done.append(error)
thread = threading.Thread(target=attempt)
thread.start()
{after}
go.set()
thread.join()
print(type(done[0]).__name__)
"""
    assert _run(tmp_path, code).stdout == "PermissionError\n"


def test_a_confined_process_still_computes_imports_and_starts_threads(tmp_path: Path) -> None:
    code = """
import shared
confinement.confine()
import colorsys, numpy.ma, shared.engines.eager, torch.nn.utils
results = []
thread = threading.Thread(target=lambda: results.append(torch.ones(300, 300) @ torch.ones(300, 300)))
thread.start()
thread.join()
memory = os.memfd_create("m")
path = pathlib.Path(f"/proc/self/fd/{memory}")
path.write_bytes(b"in memory")
print(float(results[0].sum()), path.read_bytes(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = _run(tmp_path, code)
    assert (done.returncode, done.stdout) == (-9, "27000000.0 b'in memory'\n"), done.stderr


@pytest.mark.parametrize(
    ("attempt", "end"),
    [
        ("x = bytearray(2**28)", "MemoryError"),
        ("while True: pass", -24),  # SIGXCPU
        ("print(os.write(os.memfd_create('m'), bytes(2**21)))", "1048576"),
        ("x = __import__('mmap').mmap(-1, 2**28)", "OSError"),  # shared: no part of the data segment
    ],
    ids=["memory", "CPU time", "a file", "shared memory"],
)
def test_resource_limits_hold_without_landlock_and_filter(tmp_path: Path, attempt: str, end: str | int) -> None:
    code = f"""
with confinement.limited(confinement.ProgramLimits(memory_bytes=2**26, cpu_s=0.5, file_bytes=2**20)):
    try:
        {attempt}
    except Exception as error:
        print(type(error).__name__)
x = bytearray(2**28)
"""
    done = _run(tmp_path, code)
    assert done.returncode == end if isinstance(end, int) else (done.returncode, done.stdout.strip()) == (0, end), done
