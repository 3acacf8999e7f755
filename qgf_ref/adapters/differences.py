"""Products by central differences, where a person asks for them; functions that have no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.adapters.autodiff import Autodiff, raised, wrote
from qgf_ref.arrays import Array, real_dtype
from qgf_ref.errors import InputError
from qgf_ref.nets.products import MissingProduct
from qgf_ref.user_code import error_summary

PRODUCTS = ("vjp", "jvp", "hvp")


class Point(NamedTuple):
    """Where a product is taken: obs, x, τ, and the cache of the function underneath."""

    obs: Any
    x: Array
    time: Array | None
    cache: Any


class Differenced:
    """An `Autodiff` with some products by central differences, (f(x + h·e) − f(x − h·e))/2h.

    h is the cube root of the dtype's precision times x's size: the truncation's error and the
    rounding's are then alike, about 1e-10 in float64 and 1e-4 in float32, relative. A vjp takes 2D
    calls of B rows, a jvp 2, an hvp 2 and their vjps.
    Raises InputError for an hvp without a vjp of its own: differences of differences say nothing.
    """

    def __init__(self, base: Autodiff, products: tuple[str, ...]) -> None:
        if {"vjp", "hvp"} <= set(products):
            raise InputError(
                f"{base.what}: an hvp by differences needs an exact vjp, and differences name both"
            )
        self.base, self.what, self.dtype = base, base.what, base.dtype
        self.precision = base.precision
        self.differenced = tuple(name for name in PRODUCTS if name in products)

    def observation(self, obs: Array) -> Any:
        """The base's."""
        return self.base.observation(obs)

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, Point]:
        """The base's y."""
        y, cache = self.base.forward(obs, x, time)
        return y, Point(obs, x, time, cache)

    def forward_only(self) -> Differenced:
        """Round the base's."""
        return Differenced(self.base.forward_only(), self.differenced)

    def redrawn(self, cache: Point) -> bool:
        """The base's."""
        return self.base.redrawn(cache.cache)

    def _slope(self, at: Point, x_dot: Array, value: Callable[[Array], Array]) -> Array:
        size = float(np.abs(x_dot).max(initial=0)) or 1.0
        reach = (float(np.abs(at.x).max(initial=0)) or 1.0) * np.cbrt(np.finfo(self.dtype).eps)
        h = self.dtype.type(reach / size)
        return (value(at.x + h * x_dot) - value(at.x - h * x_dot)) / (2 * h)

    def vjp(self, y_bar: Array, cache: Point) -> Array:
        """Coordinate by coordinate, all rows at once."""
        if "vjp" not in self.differenced:
            return self.base.vjp(y_bar, cache.cache)
        flat = np.zeros((len(cache.x), cache.x[0].size), self.dtype)
        for i in range(flat.shape[1]):
            e = np.zeros_like(flat)
            e[:, i] = 1
            slope = self._slope(cache, e.reshape(cache.x.shape), self._value(cache))
            # rows are the last axis of a critic's (E, B), the first of a field's (B, …)
            axes = (0,) if cache.time is None and slope.ndim == 2 else tuple(range(1, slope.ndim))
            flat[:, i] = (y_bar * slope).sum(axis=axes)
        return flat.reshape(cache.x.shape)

    def jvp(self, x_dot: Array, cache: Point) -> Array:
        """Two calls."""
        if "jvp" not in self.differenced:
            return self.base.jvp(x_dot, cache.cache)
        return self._slope(cache, x_dot, self._value(cache))

    def hvp(self, x_dot: Array, y_bar: Array, cache: Point) -> Array:
        """Two calls and two vjps."""
        if "hvp" not in self.differenced:
            return self.base.hvp(x_dot, y_bar, cache.cache)

        def pulled(x: Array) -> Array:
            return self.base.vjp(y_bar, self.base.forward(cache.obs, x, cache.time)[1])

        return self._slope(cache, x_dot, pulled)

    def _value(self, at: Point) -> Callable[[Array], Array]:
        return lambda x: self.base.forward(at.obs, x, at.time)[0]


class NumpyFunction:
    """An `Autodiff` of a function of NumPy arrays, which has no products.

    It gets copies of x and τ: what it writes into them changes nothing.
    """

    differenced: tuple[str, ...] = ()

    def __init__(self, function: Callable[..., Any], what: str, dtype: DTypeLike) -> None:
        if not callable(function):
            raise InputError(f"{what} must be a function, got {type(function).__name__}")
        self.function, self.what, self.dtype = function, what, real_dtype(dtype)
        self.precision = self.dtype.name

    def observation(self, obs: Array) -> Array:
        """A copy."""
        return np.array(obs)

    def forward_only(self) -> NumpyFunction:
        """Itself."""
        return self

    def redrawn(self, cache: Any) -> bool:
        """Nothing is traced."""
        return False

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, None]:
        """What the function returns.

        Raises InputError when it raises, returns no array, or writes into a matrix of observations,
        which differences ask it with again.
        """
        rest = () if time is None else (np.array(time),)
        before = np.array(obs) if isinstance(obs, np.ndarray) else None
        try:
            y = self.function(obs, np.array(x), *rest)
        except Exception as error:
            raise raised(self.what, error) from error
        if before is not None and not np.array_equal(obs, before):
            raise wrote(self.what)
        try:
            return np.asarray(y), None
        except Exception as error:  # rows of several lengths, a tensor that requires gradients
            raise InputError(
                f"{self.what} must return a NumPy array, it returned {type(y).__name__}: "
                f"{error_summary(error)}"
            ) from error

    def _missing(self, product: str) -> NoReturn:
        raise MissingProduct(
            f"{self.what} is a function of NumPy arrays without a {product}: ask for it by "
            f"differences=({product!r},), or give a `VelocityField` or `Critic` of your own"
        )

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        """MissingProduct."""
        self._missing("vjp")

    def jvp(self, x_dot: Array, cache: Any) -> Array:
        """MissingProduct."""
        self._missing("jvp")

    def hvp(self, x_dot: Array, y_bar: Array, cache: Any) -> Array:
        """MissingProduct."""
        self._missing("hvp")
