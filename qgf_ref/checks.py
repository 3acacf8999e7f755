"""Derivative checks for any function, yours included.

Three independent oracles, none of which knows how the derivative was written:

    adjoint identity     ⟨y_bar, J x_dot⟩ = ⟨Jᵀ y_bar, x_dot⟩          (jvp against vjp)
    complex step         J x_dot = Im f(x + i h x_dot) / h               (to rounding; f analytic)
    central difference   J x_dot ≈ (f(x + h x_dot) − f(x − h x_dot))/2h  (to ~1e-9; f real)

Errors are relative to the norm of the oracle's answer and nothing else: an absolute tolerance
would pass any derivative that is small enough. Where the oracle's answer is exactly zero, the
derivative must be too.

    >>> import numpy as np
    >>> from qgf_ref.checks import check_jvp
    >>> check_jvp(np.sin, lambda x, x_dot: np.cos(x) * x_dot, np.array([0.3, 1.1])).passed
    True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name

Tree = Array | tuple[Array, ...]
"""An array, or a tuple of arrays (the inputs or outputs of a function of several)."""

Function = Callable[..., Any]
Oracle = Literal["complex_step", "central_difference"]

TOLERANCE = {"complex_step": 1e-12, "central_difference": 1e-6, "adjoint": 1e-13}
"""Defaults. Measured on this package: complex step 1e-14 and better, adjoint 1e-15, central
differences 1e-9; the tolerances leave room for networks that amplify rounding."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check: the largest norm-relative error over all directions."""

    name: str
    oracle: str
    error: float
    tolerance: float
    directions: int

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return bool(self.error <= self.tolerance)

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "WRONG"
        return (
            f"{self.name}: {verdict}, error {self.error:.1e} against {self.oracle} "
            f"(tolerance {self.tolerance:.0e}, {self.directions} directions)"
        )


class DerivativeMismatch(AssertionError):
    """A check failed; `check` holds the numbers."""

    def __init__(self, check: Check) -> None:
        super().__init__(str(check))
        self.check = check


def _leaves(x: Tree) -> tuple[Array, ...]:
    return tuple(np.asarray(a) for a in x) if isinstance(x, tuple) else (np.asarray(x),)


def _point(x: Tree, directions: int) -> Tree:
    """x as float64, or an error where a check would say nothing."""
    if directions < 1:
        raise InputError(f"directions must be at least 1, got {directions}")
    leaves = _leaves(x)
    if any(a.dtype.kind not in "iuf" or a.dtype.name in ("float16", "float32") for a in leaves):
        kinds = ", ".join(str(a.dtype) for a in leaves)
        raise InputError(f"derivatives are checked in float64: cast x first (it is {kinds})")
    if not sum(a.size for a in leaves):
        raise InputError("x is empty: there is nothing to check")
    return _like(tuple(a.astype(np.float64) for a in leaves), x)


def _require_shape(derivative: Tree, expected: Tree, what: str) -> None:
    shapes, expected_shapes = ([a.shape for a in _leaves(t)] for t in (derivative, expected))
    if shapes != expected_shapes:
        raise InputError(
            f"the {what} has shape {_listed(shapes)}, expected {_listed(expected_shapes)}"
        )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _like(leaves: tuple[Array, ...], x: Tree) -> Tree:
    return leaves if isinstance(x, tuple) else leaves[0]


def _dot(x: Tree, y: Tree) -> float:
    return float(sum(np.vdot(a, b).real for a, b in zip(_leaves(x), _leaves(y), strict=True)))


def _norm(x: Tree) -> float:
    return float(np.sqrt(sum(np.vdot(a, a).real for a in _leaves(x))))


def _shift(x: Tree, step: complex, x_dot: Tree) -> Tree:
    return _like(tuple(a + step * b for a, b in zip(_leaves(x), _leaves(x_dot), strict=True)), x)


def _ratio(difference: float, scale: float) -> float:
    if not np.isfinite(difference) or not np.isfinite(scale):
        return float("inf")
    if scale == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / scale


def _distance(x: Tree, y: Tree) -> float:
    return _ratio(_norm(_shift(x, -1, y)), _norm(y))


def random_like(x: Tree, rng: np.random.Generator) -> Tree:
    """A standard normal direction of the shape and dtype of x."""
    return _like(tuple(rng.standard_normal(a.shape).astype(a.real.dtype) for a in _leaves(x)), x)


def complex_step(f: Function, x: Tree, x_dot: Tree, h: float = 1e-30) -> Tree:
    """J x_dot = Im f(x + i h x_dot)/h, exact to rounding for analytic f (no cancellation)."""
    y = f(_shift(x, 1j * h, x_dot))
    return _like(tuple(np.asarray(a).imag / h for a in _leaves(y)), y)


def central_difference(f: Function, x: Tree, x_dot: Tree, h: float = 1e-6) -> Tree:
    """J x_dot ≈ (f(x + h x_dot) − f(x − h x_dot))/2h, error O(h²) + O(rounding/h)."""
    plus, minus = f(_shift(x, h, x_dot)), f(_shift(x, -h, x_dot))
    difference = _shift(plus, -1, minus)
    return _like(tuple(a / (2 * h) for a in _leaves(difference)), difference)


ORACLES: dict[str, Callable[[Function, Tree, Tree], Tree]] = {
    "complex_step": complex_step,
    "central_difference": central_difference,
}


def oracle_jvp(oracle: str, f: Function, x: Tree, x_dot: Tree) -> Tree:
    """J x_dot by the named oracle; raises InputError on an unknown name."""
    if oracle not in ORACLES:
        raise unknown_name("oracle", oracle, ORACLES)
    return ORACLES[oracle](f, x, x_dot)


def _finish(check: Check, raises: bool) -> Check:
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
    on derivatives of another shape, on x that is not float64, and where nothing would be checked.
    """
    x, rng, error = _point(x, directions), _directions_rng(seed), 0.0
    for _ in range(directions):
        x_dot = random_like(x, rng)
        expected = oracle_jvp(oracle, f, x, x_dot)
        actual = jvp(x, x_dot)
        _require_shape(actual, expected, "jvp")
        error = max(error, _distance(actual, expected))
    tolerance = TOLERANCE[oracle] if tolerance is None else tolerance
    return _finish(Check(name, oracle, error, tolerance, directions), raises)


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
    on derivatives of another shape, on x that is not float64, and where nothing would be checked.
    """
    x, rng, error = _point(x, directions), _directions_rng(seed), 0.0
    size = sum(a.size for a in _leaves(x))
    columns = [oracle_jvp(oracle, f, x, e) for e in _basis(x)] if size <= max_full else []
    for _ in range(directions):
        y_bar = random_like(f(x), rng)
        x_bar = vjp(x, y_bar)
        _require_shape(x_bar, x, "vjp")
        if size <= max_full:
            expected = np.array([_dot(y_bar, column) for column in columns])
            flat = np.concatenate([np.ravel(a) for a in _leaves(x_bar)])
            error = max(error, _distance(flat, expected))
        else:
            x_dot = random_like(x, rng)
            y_dot = oracle_jvp(oracle, f, x, x_dot)
            difference = abs(_dot(x_bar, x_dot) - _dot(y_bar, y_dot))
            typical = _norm(x_bar) * _norm(x_dot) / np.sqrt(size)
            error = max(error, _ratio(difference, max(_norm(y_bar) * _norm(y_dot), typical)))
    tolerance = TOLERANCE[oracle] if tolerance is None else tolerance
    return _finish(Check(name, oracle, error, tolerance, directions), raises)


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
    on derivatives of another shape, on x that is not float64, and where nothing would be checked.
    """
    x, rng, error = _point(x, directions), _directions_rng(seed), 0.0
    for _ in range(directions):
        x_dot, y_bar = random_like(x, rng), random_like(f(x), rng)
        y_dot, x_bar = jvp(x, x_dot), vjp(x, y_bar)
        _require_shape(y_dot, y_bar, "jvp")
        _require_shape(x_bar, x, "vjp")
        difference = abs(_dot(y_bar, y_dot) - _dot(x_bar, x_dot))
        scale = max(_norm(y_bar) * _norm(y_dot), _norm(x_bar) * _norm(x_dot))
        error = max(error, _ratio(difference, scale))
    tolerance = TOLERANCE["adjoint"] if tolerance is None else tolerance
    return _finish(Check(name, "adjoint identity", error, tolerance, directions), raises)


def _directions_rng(seed: int) -> np.random.Generator:
    # a stream of its own: with default_rng(seed) a direction could equal an x that the caller drew
    # from the same seed, and along x itself a LayerNorm network barely changes
    return np.random.default_rng((seed, 0x716766))


def _basis(x: Tree) -> list[Tree]:
    leaves = _leaves(x)
    basis = []
    for i, leaf in enumerate(leaves):
        for j in range(leaf.size):
            unit = [np.zeros(a.shape) for a in leaves]
            unit[i].flat[j] = 1
            basis.append(_like(tuple(unit), x))
    return basis
