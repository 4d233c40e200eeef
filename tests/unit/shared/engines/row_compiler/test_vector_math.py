"""Elementary functions against numpy in float64; vectors and single numbers give the same bits."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, LANES, POINTER, VECTOR, Emitter
from shared.engines.row_compiler.row_code import MachineCode
from shared.engines.row_compiler.vector_math import FLOAT

Reference = Callable[..., np.ndarray]

_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)
_SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, _TINY, -_TINY, _HUGE, -_HUGE, 7.9, -7.9]
_SPECIAL += [88.72283, 88.7229, -88.72283, -86.6, -87.4, -104.0, 1e-40, 0.70710678, 0.7071068, 1.4142135, 1.0000001]


@functools.cache
def _everywhere() -> np.ndarray:
    """Return floats of every exponent, NaN included, many near 0 and 1, and the special ones."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    bits[np.isnan(bits)] = np.nan  # some signal, at which numpy warns
    spans = [generator.uniform(-span, span, 20_000) for span in (1e-3, 1.0, 10.0, 100.0)]
    around_one = 1 + generator.uniform(-0.3, 0.5, 20_000)
    x = np.concatenate([bits, *spans, around_one, _SPECIAL]).astype(np.float32)
    return x[: len(x) // LANES * LANES]


@functools.cache
def _compiled(function: str, arity: int, numbers: tuple[float, ...] = ()) -> MachineCode:
    module = ir.Module()
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "run")
    code = Emitter(ir.IRBuilder(run.append_basic_block()), run.args[0])

    def one(kind: object, place: ir.Value) -> None:
        operands = [code.load(code.array(i), place, kind, 4) for i in range(arity)]
        code.store(code.array(arity), place, getattr(code.math, function)(*operands, *numbers), 4)

    code.loop(code.blocks, lambda i: one(VECTOR, code.builder.mul(i, INT64(LANES))))
    code.loop(code.singles, lambda i: one(FLOAT, i))
    code.builder.ret_void()
    return MachineCode(str(module), "run")


def _run(function: str, *operands: np.ndarray, in_vectors: bool, numbers: tuple[float, ...] = ()) -> np.ndarray:
    arrays = [*operands, np.empty_like(operands[0])]
    count = operands[0].size
    sizes = [count // LANES, 0] if in_vectors else [0, count]
    table = np.array([*sizes, 0, 0, *(array.ctypes.data for array in arrays)], np.int64)
    _compiled(function, len(operands), numbers).call(table.ctypes.data)
    return arrays[-1]


def _both(function: str, *operands: np.ndarray, numbers: tuple[float, ...] = ()) -> np.ndarray:
    """Return the result, after a check that vectors and single numbers give the same."""
    result = _run(function, *operands, in_vectors=True, numbers=numbers)
    alone = _run(function, *operands, in_vectors=False, numbers=numbers)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(alone))
    numbers = ~np.isnan(result)
    np.testing.assert_array_equal(result[numbers].view(np.uint32), alone[numbers].view(np.uint32))
    return result


def _in_float64(reference: Reference, *operands: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(reference(*(x.astype(np.float64) for x in operands)))


def _units_off(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the error in units in the last place of the expected float32, which must be finite."""
    with np.errstate(over="ignore"):  # after the largest there is none
        unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    return np.abs(found - expected) / np.where(np.isfinite(unit), unit, 2.0**104)


_erf: Reference = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("function", "reference", "units", "low", "high"),
    [
        ("tanh", np.tanh, 5.0, -math.inf, math.inf),
        ("erf", _erf, 6.0, -math.inf, math.inf),
        ("exp", np.exp, 2.0, -86.6, 88.72283),
        ("log", np.log, 2.0, _TINY, _HUGE),
        ("sigmoid", _sigmoid, 3.0, -80.0, math.inf),
        ("softplus", lambda x: np.logaddexp(x, 0), 4.0, -86.0, math.inf),
        ("sqrt", np.sqrt, 0.5, 0.0, math.inf),
        ("abs", np.abs, 0.0, -math.inf, math.inf),
        ("neg", np.negative, 0.0, -math.inf, math.inf),
        ("reciprocal", np.reciprocal, 0.5, 1e-38, 1e38),
        ("relu", lambda x: np.maximum(x, 0), 0.0, -math.inf, math.inf),
    ],
)
def test_error_is_a_few_units_in_the_last_place(
    function: str, reference: Reference, units: float, *, low: float, high: float
) -> None:
    x = _everywhere()
    found, expected = _both(function, x), _in_float64(reference, x)
    np.testing.assert_array_equal(np.isnan(found)[np.isnan(x)], True)
    inside = (x >= low) & (x <= high) & np.isfinite(expected)
    assert inside.sum() > 10_000
    off = _units_off(found[inside].astype(np.float64), expected[inside])
    worst = int(np.argmax(off))
    assert off[worst] <= units, f"{function}({x[inside][worst]!r}) is {off[worst]:.3g} units off"


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        ("tanh", -0.0, -0.0),
        ("exp", 0.0, 1.0),
        ("exp", math.inf, math.inf),
        ("exp", 88.7229, math.inf),
        ("exp", _HUGE, math.inf),
        ("log", 1.0, 0.0),
        ("log", 0.0, -math.inf),
        ("log", -0.0, -math.inf),
        ("log", 1e-45, -math.inf),
        ("log", math.inf, math.inf),
        ("log", -1.0, math.nan),
        ("log", -math.inf, math.nan),
        ("sigmoid", math.inf, 1.0),
        ("sigmoid", -math.inf, 0.0),
        ("sigmoid", 0.0, 0.5),
        ("sqrt", -1.0, math.nan),
        ("sqrt", math.inf, math.inf),
        ("reciprocal", 0.0, math.inf),
        ("reciprocal", -math.inf, -0.0),
        ("relu", -math.inf, 0.0),
    ],
)
def test_special_values(function: str, x: float, expected: float) -> None:
    found = _both(function, np.full(LANES, x, np.float32))
    np.testing.assert_array_equal(found, np.float32(expected))
    assert math.isnan(expected) or np.all(np.signbit(found) == np.signbit(expected))


@pytest.mark.parametrize("function", ["tanh", "erf"])
def test_large_numbers_give_exactly_1(function: str) -> None:
    """A number of ten thousand times 1 + tanh, or 1 + erf, would show the least error."""
    found = _both(function, np.array([math.inf, 8.1, _HUGE, 20.0] * 4, np.float32))
    np.testing.assert_array_equal(found, 1.0)
    np.testing.assert_array_equal(_both(function, np.full(LANES, -math.inf, np.float32)), -found)


def _elu(alpha: float, scale: float) -> Reference:
    return lambda x: scale * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


@pytest.mark.parametrize(
    ("function", "numbers", "reference"),
    [
        ("mish", (), lambda x: x * np.tanh(np.logaddexp(x, 0))),
        ("elu", (1.0, 1.0), _elu(1.0, 1.0)),
        ("elu", (1.67, 1.05), _elu(1.67, 1.05)),
        ("leaky_relu", (0.01,), lambda x: np.where(x < 0, 0.01 * x, x)),
    ],
)
def test_activations_are_exact_to_a_few_units_of_1_or_of_the_result(
    function: str, numbers: tuple[float, ...], reference: Reference
) -> None:
    x = _everywhere()
    found, expected = _both(function, x, numbers=numbers), _in_float64(reference, x)
    np.testing.assert_array_equal(np.isnan(found)[np.isnan(x)], True)
    inside = np.isfinite(expected) & (np.abs(expected) < _HUGE)
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-6, atol=4e-7)
    assert found[x == np.inf][0] == np.inf


def test_tanh_and_sigmoid_never_leave_their_ranges() -> None:
    x = _everywhere()
    x = x[~np.isnan(x)][: 70_000 // LANES * LANES]
    assert np.abs(_both("tanh", x)).max() <= 1.0
    sigmoid = _both("sigmoid", x)
    assert (sigmoid.min(), sigmoid.max()) == (0.0, 1.0)


def test_exp_of_very_negative_numbers_is_nearly_0() -> None:
    x = np.array([-86.6, -87, -100, -1e3, -1e30, -_HUGE, -math.inf, -3e38] * 2, np.float32)
    found = _both("exp", x)
    assert np.all((found > 0) & (found <= 2.6e-38))


@pytest.mark.parametrize(("function", "reference"), [("max", np.maximum), ("min", np.minimum)])
def test_max_and_min_propagate_nan(function: str, reference: Reference) -> None:
    x = _everywhere()
    y = np.roll(x, 7)
    np.testing.assert_array_equal(_both(function, x, y), reference(x, y))


def test_a_product_and_a_sum_are_rounded_alike_in_vectors_and_alone() -> None:
    x = np.random.default_rng(1).standard_normal((3, LANES * 100)).astype(np.float32)
    expected = x[0].astype(np.float64) * x[1] + x[2]
    np.testing.assert_allclose(_both("fma", *x), expected, rtol=1e-5, atol=1e-6)
