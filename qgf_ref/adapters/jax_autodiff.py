"""JAX's side of an adapter. Imported by `qgf_ref.adapters.jax` alone, when it is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.adapters.autodiff import raised
from qgf_ref.arrays import Array, real_dtype
from qgf_ref.errors import InputError
from qgf_ref.nets.products import MissingProduct
from qgf_ref.user_code import error_summary

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise InputError("qgf_ref.adapters.jax needs JAX: pip install jax") from error


class JaxCache(NamedTuple):
    """The arguments, and the vjp as JAX returned it; None where there is none."""

    arguments: tuple[Any, ...]
    x: Any
    pull: Any


class JaxFunction:
    """An `Autodiff` of a function of JAX arrays; forward and vjp share one linearisation.

    What it returns in half precision is carried on in `dtype`. Where an operation has no forward
    mode (`jax.custom_vjp`), jvp and hvp are those of the vjp.
    Raises InputError for float64 without jax_enable_x64.
    """

    differenced: tuple[str, ...] = ()

    def __init__(self, function: Callable[..., Any], what: str, dtype: Any, jit: bool) -> None:
        if not callable(function):
            raise InputError(f"{what} must be a function, got {type(function).__name__}")
        self.what, self.jit, self.function = what, jit, function
        self.dtype = real_dtype(jnp.zeros(()).dtype if dtype is None else dtype)
        if self.dtype.name == "float64" and not jax.config.jax_enable_x64:
            raise InputError(
                'float64 is off in JAX: jax.config.update("jax_enable_x64", True) before any array'
            )
        self.precision = self.dtype.name
        self.no_vjp, self.lean = "", False
        compiled = jax.jit if jit else lambda f: f
        self._value = compiled(self._at)
        self._forward = compiled(lambda arguments, x: jax.vjp(lambda z: self._at(arguments, z), x))
        self._vjp = [compiled(lambda pull, y_bar: pull(y_bar)[0])]
        self._jvp = [compiled(self._pushed), compiled(self._pulled_twice)]
        self._hvp = [compiled(self._pulled_and_pushed), compiled(self._gradient_pulled)]

    def _at(self, arguments: tuple[Any, ...], x: Any) -> Any:
        obs, *time = arguments
        y = self.function(obs, x, *time)
        if isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.floating):
            if y.dtype.itemsize < 4:
                self.precision = y.dtype.name
            y = y.astype(self.dtype)
        return y

    def _pull(self, arguments: Any, x: Any, y_bar: Any) -> Any:
        return jax.vjp(lambda z: self._at(arguments, z), x)[1](y_bar)[0]

    def _pushed(self, arguments: Any, x: Any, x_dot: Any) -> Any:
        return jax.jvp(lambda z: self._at(arguments, z), (x,), (x_dot,))[1]

    def _pulled_twice(self, arguments: Any, x: Any, x_dot: Any) -> Any:
        """The vjp is linear in its cotangent: its own vjp in that is the jvp."""
        y, pull = jax.vjp(lambda z: self._at(arguments, z), x)
        return jax.vjp(lambda y_bar: pull(y_bar)[0], jnp.zeros_like(y))[1](x_dot)[0]

    def _pulled_and_pushed(self, arguments: Any, x: Any, x_dot: Any, y_bar: Any) -> Any:
        return jax.jvp(lambda z: self._pull(arguments, z, y_bar), (x,), (x_dot,))[1]

    def _gradient_pulled(self, arguments: Any, x: Any, x_dot: Any, y_bar: Any) -> Any:
        """The Hessian is symmetric: the vjp's own vjp along x_dot."""
        return jax.vjp(lambda z: self._pull(arguments, z, y_bar), x)[1](x_dot)[0]

    def observation(self, obs: Array) -> Any:
        """An array in `dtype` for the function."""
        return self._handed(obs)

    def _handed(self, x: Array) -> Any:
        """x for a function: a copy, since JAX may read an array later than it is given it. A
        compiled one takes NumPy's in a tenth of the time that JAX needs to make its own of them.
        """
        own = np.array(x, self.dtype)
        return own if self.jit else jnp.asarray(own)

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, JaxCache]:
        """y, and its vjp. Raises InputError when the function raises, or returns no array."""
        arguments = (obs,) if time is None else (obs, self._handed(time))
        at, pull = self._handed(x), None
        try:
            if self.no_vjp or self.lean:
                y = self._value(arguments, at)
            else:
                y, pull = self._forward(arguments, at)
        except Exception as error:  # noqa: BLE001
            y = self._undifferentiated(arguments, at, error)
        y = jnp.asarray(y) if isinstance(y, np.ndarray) else y
        if not isinstance(y, jax.Array):
            raise InputError(f"{self.what} must return an array, it returned {type(y).__name__}")
        return np.asarray(y), JaxCache(arguments, at, pull)

    def _undifferentiated(self, arguments: Any, x: Any, error: Exception) -> Any:
        """y of a function that cannot be differentiated, if that is what is wrong with it."""
        try:
            y = self._value(arguments, x)
        except Exception:  # noqa: BLE001
            hint = ""
            if self.jit and isinstance(error, jax.errors.JAXTypeError | TypeError):
                hint = "; where it needs concrete values, or observations are no arrays: jit=False"
            raise raised(self.what, error, hint) from error
        self.no_vjp = error_summary(error)
        return y

    def forward_only(self) -> JaxFunction:
        """A copy with the same compiled functions."""
        plain = copy(self)
        plain.lean = True
        return plain

    def redrawn(self, cache: JaxCache) -> bool:
        """Whether it is another function when it is traced again: numbers drawn or read in Python
        are constants of a compiled one.
        """
        if not self.jit:
            return False
        first, again = (jax.make_jaxpr(self._at)(cache.arguments, cache.x) for _ in range(2))
        texts = [re.sub(r"0x[0-9a-f]+", "", str(j.jaxpr)) for j in (first, again)]
        return texts[0] != texts[1] or any(
            a is not b and not np.array_equal(a, b, equal_nan=True)
            for a, b in zip(first.consts, again.consts, strict=True)
        )

    def vjp(self, y_bar: Array, cache: JaxCache) -> Array:
        """By jax.vjp. Raises MissingProduct where JAX has none."""
        pull = cache.pull
        if self.no_vjp:
            raise self._missing("vjp", self.no_vjp)
        if pull is None:
            pull = self._forward(cache.arguments, cache.x)[1]
        return self._product("vjp", self._vjp, pull, self._handed(y_bar))

    def jvp(self, x_dot: Array, cache: JaxCache) -> Array:
        """By jax.jvp. Raises MissingProduct where JAX has none."""
        along = self._handed(x_dot)
        return self._product("jvp", self._jvp, cache.arguments, cache.x, along)

    def hvp(self, x_dot: Array, y_bar: Array, cache: JaxCache) -> Array:
        """By jax.jvp of jax.vjp. Raises MissingProduct where JAX has none."""
        along, bar = (self._handed(z) for z in (x_dot, y_bar))
        return self._product("hvp", self._hvp, cache.arguments, cache.x, along, bar)

    def _product(self, name: str, ways: list[Callable[..., Any]], *args: Any) -> Array:
        """By the first way that JAX can go, which is remembered."""
        for way in list(ways):
            try:
                result = np.asarray(way(*args))
            except Exception as error:  # noqa: BLE001
                failure = error
            else:
                ways[:] = [way]
                return result
        raise self._missing(name, error_summary(failure)) from failure

    def _missing(self, name: str, why: str) -> MissingProduct:
        return MissingProduct(
            f"{self.what} has no {name} in JAX ({why}): ask for differences=({name!r},)"
        )
