"""eˣ and its kin for one number of compiled code, written so that LLVM vectorises loops over them.

All reduce the argument to r and a whole n, evaluate a polynomial in r, and put 2ⁿ together from
bits. The polynomials are minimax in the relative error of the result, found by Remez's algorithm
in 40 digits (mpmath), on |r| ≤ 1.001·½ (of 2ʳ), 1.001·½ ln 2 (of eʳ). Their errors, float32 and
float64, relative: eʳ 3.1e-9 and 3.7e-18, 2ʳ 2.0e-9 and 3.4e-18, the normal tail 7.9e-9 and
1.8e-17: below rounding. `tests/kernels/test_elementary.py` measures what rounding adds.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.extending import intrinsic

from qgf_ref.backends.numba.kernels.cache import WITHIN, compiled
from qgf_ref.backends.numba.kernels.simd import like, power_of_two

_LOG2_E = 1 / math.log(2)
_SHIFT = 1.5 * 2.0**23, 1.5 * 2.0**52
"""Added and subtracted, it rounds to a whole number; in between, that number is the last bits."""
_LN2_HIGH = 0.693359375, 6.93147180369123816490e-01
_LN2_LOW = -2.12194440054690583e-4, 1.90821492927058770002e-10
"""ln 2 in two parts, the first so short that n times it is exact."""
_EXP_TAIL = (
    (0.4999999341, 0.1666652011, 0.04166839417, 0.008368780434, 0.001381446881),
    (
        0.50000000000000107, 0.1666666666666641, 0.041666666666529187, 0.0083333333334956458,
        0.0013888888943923293, 0.00019841269504723641, 2.4801492761971183e-5,
        2.7557587377214832e-6, 2.7630378938210959e-7, 2.4999954589091469e-8,
    ),
)  # fmt: skip
"""(eʳ − 1 − r)/r²."""
_EXP2_TAIL = (
    (0.693147203, 0.240226479, 0.05550332163, 0.009618438573, 0.001339900336, 0.0001535326573),
    (
        0.69314718055994533, 0.24022650695910132, 0.055504108664820068, 0.0096181291075938451,
        0.0013333558146777319, 0.00015403530457494595, 1.5252733491336715e-5,
        1.3215435076289935e-6, 1.0178199993732288e-7, 7.0738209771644217e-9,
        4.4347546749014336e-10,
    ),
)  # fmt: skip
"""(2ʳ − 1)/r."""
_TAIL_CENTRE = 2.5 * math.sqrt(2), 4 * math.sqrt(2)
_NORMAL_TAIL = (
    (
        0.7453130474, -0.5689747002, 0.3209657365, -0.1210952129, 0.0200544592, 0.005954259261,
        -0.003398882837, -0.0003714003756, 0.0004477292411, 0.0001021768913,
    ),
    (
        0.77498596404447979, -0.69052422849219659, 0.54674111664420202, -0.3824414117522822,
        0.23394740135472156, -0.12304431372401608, 0.054009887153190337, -0.018646443521259349,
        0.0043218759624926313, -0.00019866805812618921, -0.00032177060221951973,
        0.0001250262926634935, -2.5712998308804264e-6, -1.3339253131259305e-5,
        3.3211950237728367e-6, 1.0128202689168298e-6, -6.0016414046607601e-7,
        -6.1363555338693924e-8, 8.8085187117159981e-8, 6.8086646369827106e-9,
        -9.8494938306339261e-9, -1.9796075534195149e-9,
    ),
)  # fmt: skip
"""½·erfc(x/√2)·e^{x²/2}·(x + c) in t = 1 − 2c/(x + c), c = _TAIL_CENTRE, fitted for x ≤ 14, 38."""


def constant(single: float, double: float) -> Any:
    """Compiled code's constant that depends on its argument's type: called with any x of it."""

    @intrinsic
    def chosen(typing, x):
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return context.get_constant(x, single if x == types.float32 else double)

        return x(x), codegen

    return chosen


def _polynomial(single: tuple[float, ...], double: tuple[float, ...]) -> Any:
    """Compiled code's Σ cₙ·rⁿ, by Horner's rule with fused multiply-adds where there are any."""

    @intrinsic
    def polynomial(typing, r):
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            *rest, last = single if r == types.float32 else double
            total = context.get_constant(r, last)
            for c in reversed(rest):
                product = builder.fmul(total, args[0], flags=("contract",))
                number = context.get_constant(r, c)
                total = builder.fadd(product, number, flags=("contract",))
            return total

        return r(r), codegen

    return polynomial


_shift, _ln2_high, _ln2_low = constant(*_SHIFT), constant(*_LN2_HIGH), constant(*_LN2_LOW)
_lowest, _highest = constant(-87.3, -708.0), constant(88.3, 709.0)
_most2 = constant(126.0, 1020.0)
_exp_tail, _exp2_tail = _polynomial(*_EXP_TAIL), _polynomial(*_EXP2_TAIL)
_tail_centre, _normal_tail = constant(*_TAIL_CENTRE), _polynomial(*_NORMAL_TAIL)


def inline(function: Any) -> Any:
    """`inner`, always inlined: a call would keep LLVM from vectorising the caller's loop."""
    return compiled(function, fastmath={"contract"}, forceinline=True, **WITHIN)


def _dividing(function: Any) -> Any:
    """`inline`, whose divisions may become an estimate and a Newton step: x must be finite."""
    flags = {"contract", "arcp", "ninf"}
    return compiled(function, fastmath=flags, forceinline=True, **WITHIN)


@_dividing
def reciprocal(x):
    """1/x to 0.7 eps with AVX-512, 1.2 elsewhere: a division would take half of a gelu's time."""
    return like(1, x) / x


@inline
def _reduced(x):
    x = _lowest(x) if x < _lowest(x) else x
    x = _highest(x) if x > _highest(x) else x
    shifted = x * like(_LOG2_E, x) + _shift(x)
    n = shifted - _shift(x)
    r = (x - n * _ln2_high(x)) - n * _ln2_low(x)
    return r + r * r * _exp_tail(r), power_of_two(shifted)


@inline
def exp(x):
    """eˣ, compiled. x is clamped to where the result is a normal number."""
    above_one, power = _reduced(x)
    return (like(1, x) + above_one) * power


@inline
def exp2(x):
    """2ˣ, compiled. |x| is clamped to 126 (float32) or 1020 (float64)."""
    x = -_most2(x) if x < -_most2(x) else x
    x = _most2(x) if x > _most2(x) else x
    shifted = x + _shift(x)
    r = x - (shifted - _shift(x))
    return (like(1, x) + r * _exp2_tail(r)) * power_of_two(shifted)


@inline
def expm1_and_exp(x):
    """(eˣ − 1, eˣ), compiled; the first keeps its relative accuracy near x = 0."""
    above_one, power = _reduced(x)
    return power * above_one + (power - like(1, x)), power * above_one + power


@inline
def normal_tail(x):
    """(∫ₓ^∞ φ, e^{−x²/2}) for x ≥ 0, compiled; φ is the standard normal density."""
    bell = exp(like(-0.5, x) * x * x)
    w = reciprocal(x + _tail_centre(x))
    t = like(1, x) - like(2, x) * _tail_centre(x) * w
    return bell * w * _normal_tail(t), bell
