"""LLVM assembly of a row program, and its compilation: one function that runs the program for all rows of a batch.

The function takes one pointer to a table of 64-bit words: the number of blocks of sixteen rows, the number of single
rows after them, the address of the packed weights, the address of the scratch memory, then the address of each input
and each output. Weights and scratch memory are aligned to 64 bytes. The function returns 1 when all outputs are within
their bounds, else 0.
"""

import ctypes
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import llvmlite.binding as llvm
from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, LANES, POINTER, Emitter
from shared.engines.row_compiler.row_layouts import BlockRows, SingleRow
from shared.engines.row_compiler.row_program import RowProgram
from shared.engines.row_compiler.vector_math import INT32
from shared.errors import ProgramUnsupported

FUNCTION_NAME = "run"

# LLVM splits longer vectors, even when the processor has registers for them.
_WIDTH = '"min-legal-vector-width"="0" "prefer-vector-width"="{}"'
# From this many rows on, a partly filled block costs less than single rows.
_LEAST_IN_BLOCK = 6
_SINGLE_ROW_SUMS = 4


@dataclass(frozen=True)
class Registers:
    """Vector registers that the code may use: ``count`` of ``bits`` each."""

    count: int
    bits: int

    @property
    def sums_at_once(self) -> int:
        """Number of sums of sixteen float32 that fill half of the registers; the other half holds operands."""
        return self.count * self.bits // (2 * 16 * 32)


def blocks_and_singles(rows: int) -> tuple[int, int]:
    """Return the number of blocks, the last of which may be partly filled, and of single rows after them."""
    blocks, left = divmod(rows, LANES)
    return (blocks + 1, 0) if left >= _LEAST_IN_BLOCK else (blocks, left)


class _Attributes(ir.values.FunctionAttributes):  # type: ignore[misc]
    """Attributes that llvmlite does not know by name and writes as they are."""

    _known = frozenset(_WIDTH.format(bits) for bits in (256, 512))


def row_code(program: RowProgram, places: Mapping[int, int], registers: Registers) -> str:
    """Return the function; ``places`` are offsets in scratch memory, and ``registers`` change no bit of the results."""
    module = ir.Module(FUNCTION_NAME)
    function = ir.Function(module, ir.FunctionType(INT32, [POINTER]), FUNCTION_NAME)
    function.attributes = _Attributes(_WIDTH.format(registers.bits))
    code = Emitter(ir.IRBuilder(function.append_basic_block()), function.args[0])
    b, sums = code.builder, registers.sums_at_once
    in_blocks = b.mul(code.blocks, INT64(LANES))
    code.loop(code.blocks, lambda i: BlockRows(program, places, code, b.mul(i, INT64(LANES)), sums).emit())
    code.loop(code.singles, lambda i: SingleRow(program, places, code, b.add(in_blocks, i), _SINGLE_ROW_SUMS).emit())
    is_checked = any(output.low is not None for output in program.outputs)
    b.ret(code.all_met() if is_checked else INT32(0))
    return str(module)


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

    512-bit vectors slow a core down for a while; short calls lose more than they gain (with one CartPole 1.3 of 8 us).
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
        opt=3,
        jit=True,
        codemodel="jitdefault",
    )


@functools.cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
