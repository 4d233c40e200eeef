"""Loops, memory access and dtype conversions as LLVM instructions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from shared.engines.row_compiler.row_program import PACK_ALIGNMENT
from shared.engines.row_compiler.vector_math import FLOAT, INT32, VectorMath, shaped

LANES = PACK_ALIGNMENT  # so that packed rows are whole vectors
INT64 = ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
VECTOR_BYTES = 4 * LANES

POINTER = ir.PointerType()
_UNDEFINED = ir.Constant(VECTOR, ir.Undefined)
_FIRST_LANE = ir.Constant(ir.VectorType(INT32, LANES), None)  # zeros, as the order of a shuffle
_ARRAYS_AT = 4

Values = list[ir.Value]


class Emitter:
    """Emits into ``builder``. ``table`` is the function's argument, a pointer to 64-bit words (see ``row_code``)."""

    def __init__(self, builder: ir.IRBuilder, table: ir.Value) -> None:
        self.builder = builder
        self._met = builder.alloca(INT32)
        builder.store(INT32(1), self._met)
        self.math = VectorMath(builder)
        self._table = table
        self.blocks = self._word(0)
        self.singles = self._word(1)
        self.weights = builder.inttoptr(self._word(2), POINTER)
        self.scratch = builder.inttoptr(self._word(3), POINTER)

    def array(self, number: int) -> ir.Value:
        """Return a pointer to array ``number``: the inputs come first, then the outputs."""
        return self.builder.inttoptr(self._word(_ARRAYS_AT + number), POINTER)

    def _word(self, number: int) -> ir.Value:
        return self.load(self._table, INT64(number), INT64, 8)

    def load(self, base: ir.Value, place: ir.Value, kind: Any, align: int) -> ir.Value:
        """Load a ``kind`` from ``place`` elements after ``base``; the lanes of a vector count as one element each."""
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        pointer = self.builder.gep(base, [place], source_etype=element)
        return self.builder.load(pointer, align=align, typ=kind)

    def store(self, base: ir.Value, place: ir.Value, value: ir.Value, align: int) -> None:
        """Store ``value`` where ``load`` reads it."""
        element = value.type.element if isinstance(value.type, ir.VectorType) else value.type
        self.builder.store(value, self.builder.gep(base, [place], source_etype=element), align=align)

    def splat(self, number: ir.Value) -> ir.Value:
        """Return a vector with ``number`` in every lane."""
        vector = self.builder.insert_element(_UNDEFINED, number, INT32(0))
        return self.builder.shuffle_vector(vector, _UNDEFINED, _FIRST_LANE)

    def require(self, flags: ir.Value) -> None:
        """Clear ``all_met`` unless ``flags`` (one bool, or one per lane) are all set."""
        b = self.builder
        if isinstance(flags.type, ir.VectorType):
            whole = ir.IntType(flags.type.count)
            flags = b.icmp_unsigned("==", b.bitcast(flags, whole), whole(2**flags.type.count - 1))
        b.store(b.and_(b.load(self._met), b.zext(flags, INT32)), self._met)

    def all_met(self) -> ir.Value:
        """Return 1 when every ``require`` held so far, else 0."""
        return self.builder.load(self._met)

    def loop(self, count: int | ir.Value, body: Callable[[ir.Value], object]) -> None:
        """Emit ``body(i)`` for ``i`` from 0 to ``count - 1``."""

        def step(i: ir.Value, _: Values) -> Values:
            body(i)
            return []

        self.fold(count, [], step)

    def fold(self, count: int | ir.Value, values: Values, body: Callable[[ir.Value, Values], Values]) -> Values:
        """Emit ``values = body(i, values)`` for ``i`` from 0 to ``count - 1``, and return the last values."""
        if isinstance(count, int) and count <= 1:
            return body(INT64(0), values) if count else values
        b = self.builder
        before, head = b.block, b.append_basic_block()
        inside, after = b.append_basic_block(), b.append_basic_block()
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT64)
        phis = [b.phi(value.type) for value in values]
        end = INT64(count) if isinstance(count, int) else count
        b.cbranch(b.icmp_unsigned("<", i, end), inside, after)
        b.position_at_end(inside)
        results = body(i, phis)
        following = b.add(i, INT64(1))
        i.add_incoming(INT64(0), before)
        i.add_incoming(following, b.block)
        for phi, first, then in zip(phis, values, results, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(then, b.block)
        b.branch(head)
        b.position_at_end(after)
        return list(phis)


def bytes_of(dtype: str) -> int:
    """Return the size of one number of ``dtype``, in bytes; it is also its alignment."""
    return np.dtype(dtype).itemsize


def element_type(dtype: str) -> Any:
    """Return LLVM's type for one number of ``dtype``; a bool is a byte."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return FLOAT if kind.itemsize == 4 else ir.DoubleType()
    return ir.IntType(8 * kind.itemsize)


def to_float(b: ir.IRBuilder, x: ir.Value, dtype: str) -> ir.Value:
    """Convert ``x``, of ``dtype``, to float32."""
    kind = np.dtype(dtype).kind
    if kind == "f":
        return x
    return (b.sitofp if kind == "i" else b.uitofp)(x, shaped(FLOAT, x))


def from_float(b: ir.IRBuilder, x: ir.Value, dtype: str) -> ir.Value:
    """Convert ``x``, float32 with values that ``dtype`` can hold, to ``dtype``."""
    kind, element = np.dtype(dtype).kind, element_type(dtype)
    if kind == "f":
        return x if element == FLOAT else b.fpext(x, shaped(element, x))
    return (b.fptosi if kind == "i" else b.fptoui)(x, shaped(element, x))
