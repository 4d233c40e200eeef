"""A filter of system calls for the sandbox process: calls that are not listed here fail with EPERM.

The list holds what Python, torch, ONNX Runtime and LLVM need once they are imported. It has no call that creates a
socket or a process, signals another process, or changes a directory. It is for Linux on x86-64 and ARM64.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000
_TMPFILE = 0o20000000  # os.O_TMPFILE without O_DIRECTORY
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _TMPFILE
_PR_NAMES = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory
_IOCTLS = (termios.TCGETS, termios.FIOCLEX, termios.FIONBIO) if sys.platform == "linux" else ()

# Numbers on x86-64 and on ARM64; -1 where a call does not exist.
_ALLOWED = {
    # Descriptors that are open already. Files are opened below, under conditions.
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "readv": (19, 65), "writev": (20, 66), "dup": (32, 23), "fadvise64": (221, 223), "memfd_create": (319, 279),
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72),
    "recvfrom": (45, 207), "recvmsg": (47, 212), "sendto": (44, 206),
    # Facts about files.
    "stat": (4, -1), "lstat": (6, -1), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, -1),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, -1), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17),
    # Memory.
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "membarrier": (324, 283),
    # Threads of this process, and its end.
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "exit": (60, 93),
    "exit_group": (231, 94), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    # Time, randomness and facts about the process.
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153), "getrusage": (98, 165), "sysinfo": (99, 179),
    "uname": (63, 160), "getrandom": (318, 278), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getrlimit": (97, 163),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}  # column, audit name, seccomp(2)


@dataclass(frozen=True)
class _Condition:
    """One of ``values`` is required of the bits ``mask`` of argument ``position``; only its lower half counts."""

    position: int
    values: Sequence[int]
    mask: int = 0xFFFFFFFF


def _conditional(*, writes_files: bool) -> Iterator[tuple[tuple[int, int], _Condition | None, int]]:
    """Yield calls (numbers), the condition under which they are allowed, and the error otherwise."""
    own = os.getpid()
    yield (56, 220), _Condition(0, [_CLONE_THREAD], _CLONE_THREAD), errno.EPERM  # clone: threads only
    yield (435, 435), None, errno.ENOSYS  # clone3 has its flags in memory; glibc then calls clone
    for numbers in ((62, 129), (234, 131)):  # kill, tgkill: abort() signals its own process
        yield numbers, _Condition(0, [own]), errno.EPERM
    yield (302, 261), _Condition(0, [0, own]), errno.EPERM  # prlimit64
    yield (157, 167), _Condition(0, _PR_NAMES), errno.EPERM  # prctl
    yield (16, 29), _Condition(1, _IOCTLS), errno.EPERM  # ioctl
    yield (72, 25), _Condition(1, [fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC]), errno.EPERM
    for numbers, position in (((257, 56), 2), ((2, -1), 1)):  # openat, open
        mask = 0 if writes_files else _WRITING
        yield numbers, _Condition(position, [0], mask), errno.EPERM


def filter_system_calls(*, writes_files: bool) -> bool:
    """Restrict all threads of this process for good; return False if this system cannot.

    Args:
        writes_files: Let files be opened for writing: another mechanism decides which.
    """
    column, architecture, seccomp = _ARCHITECTURES.get(platform.machine(), (0, 0, 0))
    if sys.platform != "linux" or not seccomp or sys.maxsize < 2**32:
        return False
    code = b"".join(_code(column, architecture, writes_files=writes_files))
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.syscall(ctypes.c_long(seccomp), _SET_MODE_FILTER, _ALL_THREADS, program) == 0)


def _code(column: int, architecture: int, *, writes_files: bool) -> Iterator[bytes]:
    """Yield the instructions of the filter (classic BPF)."""
    yield _instruction(_LOAD, _ARCHITECTURE_AT)
    yield _instruction(_JUMP_EQUAL, architecture, 1, 0)
    yield _instruction(_RETURN, _KILL)
    yield _instruction(_LOAD, _NUMBER_AT)
    yield _instruction(_JUMP_AT_LEAST, _X32_BIT, 0, 1)
    yield _instruction(_RETURN, _KILL)
    for numbers in _ALLOWED.values():
        if numbers[column] >= 0:
            yield _instruction(_JUMP_EQUAL, numbers[column], 0, 1)
            yield _instruction(_RETURN, _ALLOW)
    for numbers, condition, error in _conditional(writes_files=writes_files):
        if numbers[column] >= 0:
            block = list(_block(condition, error))
            yield _instruction(_JUMP_EQUAL, numbers[column], 0, len(block))
            yield from block
    yield _instruction(_RETURN, _ERRNO | errno.EPERM)


def _block(condition: _Condition | None, error: int) -> Iterator[bytes]:
    if condition is not None:
        yield _instruction(_LOAD, _ARGUMENTS_AT + 8 * condition.position)
        yield _instruction(_AND, condition.mask)
        for value in condition.values:
            yield _instruction(_JUMP_EQUAL, value, 0, 1)
            yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _ERRNO | error)


def _instruction(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", operation, if_true, if_false, value)
