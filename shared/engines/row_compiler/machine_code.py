"""LLVM's own language into code for this processor, in the memory of this process."""

import ctypes
import functools
import hashlib
from collections.abc import Callable

import llvmlite.binding as llvm

from shared.engines.row_compiler.registers import Registers
from shared.errors import ProgramUnsupported

_OPTIMISATION = 3


class MachineCode:
    """A compiled function from an address to a small number. The code lives as long as this object."""

    def __init__(self, text: str, name: str) -> None:
        """Raises ProgramUnsupported where LLVM does not know how to."""
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        target = _target_machine()
        try:
            module = llvm.parse_assembly(text)
            module.verify()
            # No passes over the module: they take as long as the rest, and gained nothing that could be measured.
            self._engine = llvm.create_mcjit_compiler(module, target)
            self._engine.finalize_object()
        except RuntimeError as error:
            raise ProgramUnsupported(f"LLVM: {error}") from error
        address = self._engine.get_function_address(name)
        self.call: Callable[[int], int] = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)
        """Does not hold the GIL meanwhile."""
        self.brief_call: Callable[[int], int] = ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)
        """Holds the GIL: giving it up and taking it back may cost more than a short call, above all where another
        thread wants it, which is woken each time and comes too late."""


def processor_registers(*, is_brief: bool) -> Registers:
    """What code is to use on this processor; ``is_brief``: where it is called often, and not for long.

    After vectors of 512 bits a core is slower for a while, whatever it runs. Code that runs briefly gains less by them
    than Python, numpy and the environment lose, which run between its calls (measured: with one CartPole 1.3 of 8 us).
    """
    features = llvm.get_host_cpu_features()
    if not (features.get("avx512f") and features.get("avx512vl")):
        return Registers(count=16, bits=256)
    return Registers(count=32, bits=256 if is_brief else 512)


def _target_machine() -> llvm.TargetMachine:
    _initialise()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=_OPTIMISATION, jit=True, codemodel="jitdefault"
    )


@functools.cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
