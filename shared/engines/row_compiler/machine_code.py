"""LLVM assembly compiled for this processor, in the memory of this process."""

import ctypes
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.binding as llvm

from shared.errors import ProgramUnsupported

_OPTIMISATION = 3


@dataclass(frozen=True)
class Registers:
    """Vector registers that the code may use: ``count`` of ``bits`` each."""

    count: int
    bits: int

    @property
    def sums_at_once(self) -> int:
        """Number of sums of sixteen float32 that fill half of the registers; the other half holds operands."""
        return self.count * self.bits // (2 * 16 * 32)


class MachineCode:
    """Compiled function from an address to an int32. The code lives as long as this object."""

    def __init__(self, text: str, name: str) -> None:
        """Compile the function ``name`` of the assembly ``text``. Raises ProgramUnsupported when LLVM refuses it."""
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        target = _target_machine()
        try:
            module = llvm.parse_assembly(text)
            module.verify()
            # No passes over the module: they double the compile time and gave no measurable gain.
            self._engine = llvm.create_mcjit_compiler(module, target)
            self._engine.finalize_object()
        except RuntimeError as error:
            raise ProgramUnsupported(f"LLVM: {error}") from error
        address = self._engine.get_function_address(name)
        self.call: Callable[[int], int] = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)
        """The function, called without the GIL."""
        self.brief_call: Callable[[int], int] = ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)
        """The function, called with the GIL held: releasing it costs more than a short call when threads contend."""


def processor_registers(*, is_brief: bool) -> Registers:
    """Return the registers to use on this processor; ``is_brief`` is true for short, frequent calls.

    512-bit vectors slow a core down for a while. Short calls gain less by them than Python, numpy and the environment
    lose between the calls (measured with one CartPole: 1.3 of 8 us).
    """
    features = llvm.get_host_cpu_features()
    if not (features.get("avx512f") and features.get("avx512vl")):
        return Registers(count=16, bits=256)
    return Registers(count=32, bits=256 if is_brief else 512)


def _target_machine() -> llvm.TargetMachine:
    _initialise()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=_OPTIMISATION,
        jit=True,
        codemodel="jitdefault",
    )


@functools.cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
