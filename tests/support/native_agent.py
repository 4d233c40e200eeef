"""The C++ actor: its build, and its C interface bound by ctypes as another language would bind it."""

import ctypes
import os
import subprocess
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.support.paths import REPOSITORY

SOURCE = REPOSITORY / "actor" / "native"
OK, BAD_INPUT, NOT_READY, POLICY_FAILED = range(4)


def run_command(*command: object) -> str:
    """Return what a command prints; the test fails with all of it if the command fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build_native(build: Path, *settings: str, targets: Sequence[str] = ()) -> Path:
    """Build ``actor/native`` as docs/guides/native-actor.md says, and return the directory."""
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    run_command("cmake", "-S", SOURCE, "-B", build, prefix, *settings)
    chosen = ["--target", *targets] if targets else []
    run_command("cmake", "--build", build, "--parallel", "2", *chosen)
    return build


def shared_build(temporary: pytest.TempPathFactory) -> Path:
    """Return a build for the tests of all workers: in the directory that ``NATIVE_BUILD`` names, if it does."""
    own = temporary.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(common / "native_build.lock"):
        return build_native(Path(os.environ.get("NATIVE_BUILD") or common / "native_build"))


class NativeError(Exception):
    """A call that failed; ``status`` is the function's result."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_Log = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


class _Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("public_keys", POINTER(c_char_p)),
        ("public_key_count", c_size_t),
        ("run_id", c_char_p),
        ("trust_programs", c_int),
        ("poll_s", c_double),
        ("log", _Log),
        ("log_context", c_void_p),
    ]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_char_p),
        ("shape", POINTER(c_int64)),
        ("dimensions", c_size_t),
        ("row_bytes", c_size_t),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_size_t)]


class _Counts(ctypes.Structure):
    _fields_ = [("adopted", c_uint64), ("refused", c_uint64), ("failed", c_uint64)]


@dataclass(frozen=True)
class Counts:
    adopted: int
    refused: int
    failed: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the signature; the first size of ``shape`` is -1."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    row_bytes: int


class NativeAgent:
    """``rlhs_agent`` of ``librl_hotswap.so``. ``lines`` are those of its log."""

    def __init__(
        self,
        build: Path,
        store: Path | None,
        *,
        keys: Sequence[str] = (),
        run_id: str | None = None,
        trust_programs: bool = False,
        poll_s: float = 0.05,
    ) -> None:
        self.lines: list[str] = []
        self.library = ctypes.CDLL(str(build / "librl_hotswap.so"))
        self.library.rlhs_last_error.restype = c_char_p
        self._log = _Log(lambda _, line: self.lines.append(line.decode()))  # the library keeps no reference
        names = (c_char_p * len(keys))(*(key.encode() for key in keys))
        run = None if run_id is None else run_id.encode()
        options = _Options(ctypes.sizeof(_Options), names, len(keys), run, trust_programs, poll_s, self._log)
        self.handle = c_void_p()
        path = None if store is None else str(store).encode()
        self.call("agent_open", path, byref(options), byref(self.handle))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.library.rlhs_agent_close(self.handle)

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``rlhs_NAME``. Raises NativeError."""
        status = getattr(self.library, f"rlhs_{name}")(*arguments)
        if status != OK:
            raise NativeError(status, self.library.rlhs_last_error().decode())

    def wait(self, timeout_s: float = 20.0) -> None:
        self.call("agent_wait", self.handle, c_double(timeout_s))

    def adopt(self) -> bool:
        adopted = c_int(-1)
        self.call("agent_adopt", self.handle, byref(adopted))
        return bool(adopted.value)

    def version(self) -> tuple[int, str]:
        """Return number and digest."""
        version, digest = c_int64(), ctypes.create_string_buffer(65)
        self.call("agent_version", self.handle, byref(version), digest)
        return version.value, digest.value.decode()

    def counts(self) -> Counts:
        counts = _Counts()
        self.call("agent_counts", self.handle, byref(counts))
        return Counts(counts.adopted, counts.refused, counts.failed)

    def tensors(self, side: int) -> list[Tensor]:
        """Return the inputs (0) or the outputs (1) of all versions."""
        count, found = c_size_t(), []
        self.call("agent_tensor_count", self.handle, side, byref(count))
        for index in range(count.value):
            tensor = _Tensor()
            self.call("agent_tensor", self.handle, side, c_size_t(index), byref(tensor))
            shape = tuple(tensor.shape[: tensor.dimensions])
            found.append(Tensor(tensor.name.decode(), tensor.dtype.decode(), shape, tensor.row_bytes))
        return found

    def act(self, *inputs: np.ndarray) -> tuple[int, list[np.ndarray]]:
        """Return the version that acted, and its outputs."""
        rows = len(inputs[0])
        outputs = [np.empty((rows, *spec.shape[1:]), spec.dtype) for spec in self.tensors(1)]
        version = self.act_into(rows, inputs, outputs)
        return version, outputs

    def act_into(self, rows: int, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> int:
        """Fill ``outputs`` and return the version that acted."""
        version = c_int64(-1)
        given, filled = _buffers(inputs), _buffers(outputs)
        self.call(
            "agent_act",
            *(self.handle, c_int64(rows), given, c_size_t(len(given)), filled, c_size_t(len(filled)), byref(version)),
        )
        return version.value


def _buffers(arrays: Sequence[np.ndarray]) -> "ctypes.Array[_Buffer]":
    assert all(array.flags.c_contiguous for array in arrays)
    return (_Buffer * len(arrays))(*((array.ctypes.data, array.nbytes) for array in arrays))
