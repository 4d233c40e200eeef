"""Elementary functions in LLVM's terms, good to five units in the last place of a float32 (tanh), or three.

All work on one float and on vectors of any length, lane by lane and with the same bits. NaN goes in and comes out.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

FLOAT = ir.FloatType()
INT32 = ir.IntType(32)

# tanh(x) is x P(x^2) / Q(x^2) up to where it is 1 in float32: a minimax fit of the relative error, 6e-9 in exact
# arithmetic.
_TANH_END = 7.9
_TANH_P = (
    0.9999999944054535,
    0.134507013005911,
    0.0035790881876335994,
    2.2024847223923654e-05,
    1.5430253847987356e-08,
)
_TANH_Q = (1.0, 0.46784029326925586, 0.02619260297078472, 0.0003423808536998613, 8.599699247517698e-07)

_LOG2_E = math.log2(math.e)
# ln 2 in two parts, the first short enough for its product with any exponent to be exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH
_EXP_LARGEST = 88.72283  # its exponential is the largest float32
_EXP_SMALLEST = -86.6  # and of this, a little more than the smallest normal one
# Adding it to a float of less than 2^22 leaves the nearest whole number in the low bits.
_ROUNDER = 12582912.0
_ROUNDER_BITS = 0x4B400000
_EXPONENT_OF_1 = 127
_MANTISSA_BITS = 23
_MANTISSA = 0x007FFFFF
_SQRT_HALF_BITS = 0x3F3504F3


class VectorMath:
    """Emits into ``builder``; every operand is a float or a vector of floats."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._b = builder

    def fused(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a b + c, rounded once where the processor can do that."""
        return self._call("llvm.fmuladd", [a, b, c])

    def tanh(self, x: ir.Value) -> ir.Value:
        b = self._b
        end = _like(x, _TANH_END)
        # Either comparison is false for NaN, which stays.
        x = b.select(b.fcmp_ordered(">", x, end), end, x)
        low = _like(x, -_TANH_END)
        x = b.select(b.fcmp_ordered("<", x, low), low, x)
        square = b.fmul(x, x)
        return b.fdiv(b.fmul(x, self._polynomial(square, _TANH_P)), self._polynomial(square, _TANH_Q))

    def exp(self, x: ir.Value) -> ir.Value:
        """What is below 2.5e-38 becomes that."""
        b = self._b
        smallest = _like(x, _EXP_SMALLEST)
        clamped = b.select(b.fcmp_ordered("<", x, smallest), smallest, x)
        largest = _like(x, _EXP_LARGEST)
        is_too_large = b.fcmp_ordered(">", x, largest)
        clamped = b.select(is_too_large, largest, clamped)
        rounder = _like(x, _ROUNDER)
        rounded = self.fused(clamped, _like(x, _LOG2_E), rounder)
        whole = b.fsub(rounded, rounder)
        rest = self.fused(whole, _like(x, -_LN2_HIGH), clamped)
        rest = self.fused(whole, _like(x, -_LN2_LOW), rest)
        # Taylor's series: |rest| is at most ln(2)/2.
        series = self._polynomial(rest, [1 / math.factorial(n) for n in range(8)])
        # 2^128 is no float32: half of the power goes in, and twice that comes out.
        bits = b.sub(self._as_bits(rounded), _like_int(x, _ROUNDER_BITS - (_EXPONENT_OF_1 - 1)))
        half_power = self._as_float(b.shl(bits, _like_int(x, _MANTISSA_BITS)))
        result = b.fmul(b.fmul(series, _like(x, 2.0)), half_power)
        return b.select(is_too_large, _like(x, math.inf), result)

    def log(self, x: ir.Value) -> ir.Value:
        """What is less than the smallest normal number counts as 0, whose logarithm is -inf."""
        b = self._b
        bits = self._as_bits(x)
        shifted = b.sub(bits, _like_int(x, _SQRT_HALF_BITS))
        exponent = b.ashr(shifted, _like_int(x, _MANTISSA_BITS))
        mantissa = b.add(b.and_(shifted, _like_int(x, _MANTISSA)), _like_int(x, _SQRT_HALF_BITS))
        f = b.fsub(self._as_float(mantissa), _like(x, 1.0))
        # ln(1 + f) = 2 artanh(s) with s = f / (2 + f), which is at most 0.1716.
        s = b.fdiv(f, b.fadd(f, _like(x, 2.0)))
        square = b.fmul(s, s)
        tail = b.fmul(square, self._polynomial(square, [2 / 3, 2 / 5, 2 / 7, 2 / 9]))
        # 2 s = f - s f: so that the largest part is exact.
        log_mantissa = b.fsub(f, b.fmul(s, b.fsub(f, tail)))
        power = b.sitofp(exponent, x.type)
        result = b.fadd(self.fused(power, _like(x, _LN2_LOW), log_mantissa), b.fmul(power, _like(x, _LN2_HIGH)))
        result = b.select(
            b.fcmp_ordered("<", x, _like(x, float(np.finfo(np.float32).tiny))), _like(x, -math.inf), result
        )
        is_ordinary = b.fcmp_ordered("<", x, _like(x, math.inf))
        result = b.select(is_ordinary, result, x)  # inf and NaN
        return b.select(b.fcmp_ordered("<", x, _like(x, 0.0)), _like(x, math.nan), result)

    def sigmoid(self, x: ir.Value) -> ir.Value:
        one = _like(x, 1.0)
        return self._b.fdiv(one, self._b.fadd(one, self.exp(self._b.fneg(x))))

    def sqrt(self, x: ir.Value) -> ir.Value:
        return self._call("llvm.sqrt", [x])

    def abs(self, x: ir.Value) -> ir.Value:
        return self._call("llvm.fabs", [x])

    def reciprocal(self, x: ir.Value) -> ir.Value:
        return self._b.fdiv(_like(x, 1.0), x)

    def neg(self, x: ir.Value) -> ir.Value:
        return self._b.fneg(x)

    def relu(self, x: ir.Value) -> ir.Value:
        zero = _like(x, 0.0)
        return self._b.select(self._b.fcmp_ordered("<", x, zero), zero, x)

    def max(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self._call("llvm.maximum", [x, y])

    def min(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self._call("llvm.minimum", [x, y])

    def number(self, like: ir.Value, number: float) -> ir.Constant:
        """``number`` in every lane that ``like`` has."""
        return _like(like, number)

    def number_of(self, kind: Any, number: float) -> ir.Constant:
        """``number`` in every lane of a ``kind``."""
        return _constant(kind, float(np.float32(number)))

    def truth(self, flags: ir.Value, like: ir.Value) -> ir.Value:
        """1 where ``flags`` are set, 0 elsewhere."""
        return self._b.select(flags, _like(like, 1.0), _like(like, 0.0))

    def _polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """By Horner's rule; the first coefficient is the constant."""
        result = _like(x, coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.fused(result, x, _like(x, coefficient))
        return result

    def _as_bits(self, x: ir.Value) -> ir.Value:
        return self._b.bitcast(x, _int_type(x))

    def _as_float(self, bits: ir.Value) -> ir.Value:
        return self._b.bitcast(bits, _float_type(bits))

    def _call(self, name: str, arguments: Sequence[ir.Value]) -> ir.Value:
        kind = arguments[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        module = self._b.module
        function = module.globals.get(f"{name}.{suffix}")
        if function is None:
            function = ir.Function(module, ir.FunctionType(kind, [kind] * len(arguments)), f"{name}.{suffix}")
        return self._b.call(function, arguments)


def _like(x: ir.Value, number: float) -> ir.Constant:
    """``number`` as a float32, in every lane that ``x`` has."""
    return _constant(x.type, float(np.float32(number)))


def _like_int(x: ir.Value, number: int) -> ir.Constant:
    return _constant(_int_type(x), number)


def _constant(kind: Any, number: float) -> ir.Constant:
    if not isinstance(kind, ir.VectorType):
        return ir.Constant(kind, number)
    return _Everywhere(kind, [ir.Constant(kind.element, number)] * kind.count)


class _Everywhere(ir.Constant):  # type: ignore[misc]
    """One number in all lanes, which is written once: most of what LLVM would have to read are such constants."""

    def _get_reference(self) -> str:
        return f"splat ({self.constant[0]})"


def _int_type(x: ir.Value) -> Any:
    return ir.VectorType(INT32, x.type.count) if isinstance(x.type, ir.VectorType) else INT32


def _float_type(x: ir.Value) -> Any:
    return ir.VectorType(FLOAT, x.type.count) if isinstance(x.type, ir.VectorType) else FLOAT
