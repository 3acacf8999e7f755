"""Derivative checks for any function, yours included.

Three independent oracles, none of which knows how the derivative was written:

    adjoint identity     ⟨y_bar, J x_dot⟩ = ⟨Jᵀ y_bar, x_dot⟩          (jvp against vjp)
    complex step         J x_dot = Im f(x + i h x_dot) / h               (to rounding; f analytic)
    central difference   J x_dot ≈ (f(x + h x_dot) − f(x − h x_dot))/2h  (to ~1e-9; f real)

Errors are relative to the norm of the oracle's answer and nothing else: an absolute tolerance
would pass any derivative that is small enough. Where the oracle's answer is exactly zero, the
derivative must be too. An oracle whose premise fails (f drops imaginary parts, or computes in
float32) is not believed: the check's remark says so, and differences judge (`qgf_ref.oracles`).

    >>> import numpy as np
    >>> from qgf_ref.checks import check_jvp
    >>> check_jvp(np.sin, lambda x, x_dot: np.cos(x) * x_dot, np.array([0.3, 1.1])).passed
    True
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.errors import InputError
from qgf_ref.oracles import Derivatives, Oracle, derivatives
from qgf_ref.quotients import FLOAT32_ACCURACY, central_difference, complex_step
from qgf_ref.trees import Function, Tree, leaves, like, norm, numbers, own_copy, shifted
from qgf_ref.user_code import require_function, told_whose

__all__ = [
    "Check", "DerivativeMismatch", "central_difference", "check_adjoint", "check_jvp", "check_vjp",
    "complex_step",
]  # fmt: skip

TOLERANCE = {"complex_step": 1e-12, "central_difference": 1e-6, "adjoint": 1e-13}
"""Defaults. Measured on this package: complex step 1e-14 and better, adjoint 1e-15, central
differences 1e-9; the tolerances leave room for networks that amplify rounding."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check: the largest norm-relative error over all directions.

    oracle  that judged; remark: why not the one that was asked for, or what limits it
    """

    name: str
    oracle: str
    error: float
    tolerance: float
    directions: int
    remark: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return bool(self.error <= self.tolerance)

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "WRONG"
        return (
            f"{self.name}: {verdict}, error {self.error:.1e} against {self.oracle} "
            f"(tolerance {self.tolerance:.0e}, {self.directions} directions)"
            f"{self.remark and '; '}{self.remark}"
        )


class DerivativeMismatch(AssertionError):
    """A check failed; `check` holds the numbers."""

    def __init__(self, check: Check) -> None:
        super().__init__(str(check))
        self.check = check


def _point(x: Tree, directions: int) -> Tree:
    """x as float64, or an error where a check would say nothing."""
    if directions < 1:
        raise InputError(f"directions must be at least 1, got {directions}")
    arrays = numbers(x)
    if any(a.dtype.kind not in "iuf" or a.dtype.name in ("float16", "float32") for a in arrays):
        kinds = ", ".join(str(a.dtype) for a in arrays)
        raise InputError(f"derivatives are checked in float64: cast x first (it is {kinds})")
    if not sum(a.size for a in arrays):
        raise InputError("x is empty: there is nothing to check")
    return like(tuple(a.astype(np.float64) for a in arrays), x)


def _dot(x: Tree, y: Tree) -> float:
    return float(sum(np.vdot(a, b).real for a, b in zip(leaves(x), leaves(y), strict=True)))


def _ratio(difference: float, scale: float) -> float:
    if not np.isfinite(difference) or not np.isfinite(scale):
        return float("inf")
    if scale == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / scale


def _distance(x: Tree, y: Tree) -> float:
    return _ratio(norm(shifted(x, -1, y)), norm(y))


def random_like(x: Tree, rng: np.random.Generator) -> Tree:
    """A standard normal direction of the shape and dtype of x."""
    return like(tuple(rng.standard_normal(a.shape).astype(a.real.dtype) for a in leaves(x)), x)


def _asked(name: str, function: Function, *given: Tree) -> Any:
    """A copy of what somebody's function answers on copies: which arrays it writes into, its
    arguments or one that it keeps for its answers, is its own affair.

    Raises InputError, with the function, the call and the line, when it raises, and where it
    answers in no numbers.
    """
    require_function(function, name, "of arrays, which returns arrays")
    with _told(name, *given):
        answer = function(*map(own_copy, given))
    try:
        kinds = {a.dtype.kind for a in leaves(answer)}
    except (TypeError, ValueError):  # rows of several lengths
        kinds = {"O"}
    if not kinds <= set("biufc"):
        raise InputError(
            f"the {name} must return numbers, an array or a tuple of them, got "
            f"{type(answer).__name__}"
        )
    return own_copy(answer)


def _told(name: str, *given: Tree) -> AbstractContextManager[None]:
    shapes = " and ".join(", ".join(str(a.shape) for a in leaves(x)) for x in given)
    return told_whose(f"your {name}", f"with arguments of shape {shapes}")


class _Verdict:
    """What a check gathers: the largest error, and whether a rule answers in float32."""

    def __init__(self, name: str, oracle: str, tolerance: float | None, directions: int) -> None:
        self.name, self.oracle, self.directions = name, oracle, directions
        default = TOLERANCE.get(oracle.split()[0], 0.0)  # an unknown name is refused later
        self.tolerance = default if tolerance is None else tolerance
        self.error, self.remarks = 0.0, dict[str, None]()

    def judged_by(self, answer: Derivatives) -> None:
        """Take the oracle that was believed, and its accuracy."""
        if answer.remark:
            default = TOLERANCE[answer.oracle] if answer.oracle != self.oracle else 0.0
            self.oracle = answer.oracle
            self.tolerance = max(self.tolerance, default, answer.accuracy)
            self.remarks[f"f {answer.remark}"] = None

    def rule(self, derivative: Tree, expected: Tree, what: str) -> None:
        """Require the shape of `expected`, and allow for an answer in float32."""
        shapes, wanted = ([a.shape for a in leaves(t)] for t in (derivative, expected))
        if shapes != wanted:
            listed = [", ".join(map(str, s)) for s in (shapes, wanted)]
            raise InputError(f"the {what} has shape {listed[0]}, expected {listed[1]}")
        if any(a.dtype.kind == "f" and a.dtype.itemsize < 8 for a in leaves(derivative)):
            self.tolerance = max(self.tolerance, FLOAT32_ACCURACY)
            self.remarks[f"the {what} is {leaves(derivative)[0].dtype}"] = None

    def worse(self, error: float) -> None:
        """Keep the largest."""
        self.error = max(self.error, error)

    def finish(self, raises: bool) -> Check:
        """The check; raises DerivativeMismatch, if asked to, when it failed."""
        if self.tolerance < 1e-9 < self.error < 1e-6:
            self.remarks["an error of the size of float32's rounding"] = None
        remark = ", ".join(self.remarks)
        check = Check(self.name, self.oracle, self.error, self.tolerance, self.directions, remark)
        if raises and not check.passed:
            raise DerivativeMismatch(check)
        return check


def check_jvp(
    f: Function,
    jvp: Function,
    x: Tree,
    *,
    oracle: Oracle = "complex_step",
    directions: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
    name: str = "jvp",
    raises: bool = True,
) -> Check:
    """Check `jvp(x, x_dot)` = J x_dot of `f` at x along random directions.

    f       x ↦ y on arrays (or tuples of arrays); accepts complex arrays for "complex_step"
    error   max over directions of ‖jvp − oracle‖/‖oracle‖
    Raises DerivativeMismatch (an AssertionError) on failure, unless `raises` is false; InputError
    on derivatives of another shape, on x that is not float64, where nothing would be checked, and
    from what a function of yours raises, naming it and the line.
    """
    x, rng = _point(x, directions), _directions_rng(seed)
    verdict = _Verdict(name, oracle, tolerance, directions)
    along = [random_like(x, rng) for _ in range(directions)]
    answer = _by_oracle(oracle, f, x, along)
    verdict.judged_by(answer)
    for x_dot, expected in zip(along, answer.values, strict=True):
        actual = _asked("jvp", jvp, x, x_dot)
        verdict.rule(actual, expected, "jvp")
        verdict.worse(_distance(actual, expected))
    return verdict.finish(raises)


def check_vjp(
    f: Function,
    vjp: Function,
    x: Tree,
    *,
    oracle: Oracle = "complex_step",
    directions: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
    name: str = "vjp",
    raises: bool = True,
    max_full: int = 64,
) -> Check:
    """Check `vjp(x, y_bar)` = Jᵀ y_bar of `f` at x.

    When x has at most `max_full` elements, each element of Jᵀ y_bar is compared with
    ⟨y_bar, J e_i⟩: error ‖vjp − oracle‖/‖oracle‖. For a larger x, ⟨vjp, x_dot⟩ is compared with
    ⟨y_bar, J x_dot⟩ along random x_dot: error |difference| over the larger of ‖y_bar‖‖J x_dot‖ and
    ‖vjp‖‖x_dot‖/√size, the typical size of that product (of a scalar function, J x_dot can be far
    smaller by chance: a direction almost orthogonal to the gradient).
    Raises DerivativeMismatch (an AssertionError) on failure, unless `raises` is false; InputError
    on derivatives of another shape, on x that is not float64, where nothing would be checked, and
    from what a function of yours raises, naming it and the line.
    """
    x, rng = _point(x, directions), _directions_rng(seed)
    verdict, y = _Verdict(name, oracle, tolerance, directions), _asked("f", f, x)
    size = sum(a.size for a in leaves(x))
    full = size <= max_full
    drawn = [(random_like(y, rng), x if full else random_like(x, rng)) for _ in range(directions)]
    answer = _by_oracle(oracle, f, x, _basis(x) if full else [x_dot for _, x_dot in drawn])
    verdict.judged_by(answer)
    for n, (y_bar, x_dot) in enumerate(drawn):
        x_bar = _asked("vjp", vjp, x, y_bar)
        verdict.rule(x_bar, x, "vjp")
        if full:
            expected = np.array([_dot(y_bar, column) for column in answer.values])
            flat = np.concatenate([np.ravel(a) for a in leaves(x_bar)])
            verdict.worse(_distance(flat, expected))
        else:
            y_dot = answer.values[n]
            difference = abs(_dot(x_bar, x_dot) - _dot(y_bar, y_dot))
            typical = norm(x_bar) * norm(x_dot) / np.sqrt(size)
            verdict.worse(_ratio(difference, max(norm(y_bar) * norm(y_dot), typical)))
    return verdict.finish(raises)


def check_adjoint(
    f: Function,
    jvp: Function,
    vjp: Function,
    x: Tree,
    *,
    directions: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
    name: str = "adjoint",
    raises: bool = True,
) -> Check:
    """Check ⟨y_bar, J x_dot⟩ = ⟨Jᵀ y_bar, x_dot⟩ at x along random directions.

    error   max over directions of |difference|/max(‖y_bar‖‖J x_dot‖, ‖Jᵀ y_bar‖‖x_dot‖)
    Raises DerivativeMismatch (an AssertionError) on failure, unless `raises` is false; InputError
    on derivatives of another shape, on x that is not float64, where nothing would be checked, and
    from what a function of yours raises, naming it and the line.
    """
    x, rng = _point(x, directions), _directions_rng(seed)
    verdict, y = _Verdict(name, "adjoint identity", tolerance, directions), _asked("f", f, x)
    for _ in range(directions):
        x_dot, y_bar = random_like(x, rng), random_like(y, rng)
        y_dot, x_bar = _asked("jvp", jvp, x, x_dot), _asked("vjp", vjp, x, y_bar)
        verdict.rule(y_dot, y_bar, "jvp")
        verdict.rule(x_bar, x, "vjp")
        difference = abs(_dot(y_bar, y_dot) - _dot(x_bar, x_dot))
        scale = max(norm(y_bar) * norm(y_dot), norm(x_bar) * norm(x_dot))
        verdict.worse(_ratio(difference, scale))
    return verdict.finish(raises)


def _by_oracle(oracle: Oracle, f: Function, x: Tree, along: list[Tree]) -> Derivatives:
    require_function(f, "f", "of arrays, which returns arrays")
    with _told("f", x):
        return derivatives(oracle, f, x, along)


def _directions_rng(seed: int) -> np.random.Generator:
    # a stream of its own: with default_rng(seed) a direction could equal an x that the caller drew
    # from the same seed, and along x itself a LayerNorm network barely changes
    return np.random.default_rng((seed, 0x716766))


def _basis(x: Tree) -> list[Tree]:
    basis, arrays = [], leaves(x)
    for i, leaf in enumerate(arrays):
        for j in range(leaf.size):
            unit = [np.zeros(a.shape) for a in arrays]
            unit[i].flat[j] = 1
            basis.append(like(tuple(unit), x))
    return basis
