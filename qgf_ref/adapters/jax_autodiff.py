"""JAX's side of an adapter. Imported by `qgf_ref.adapters.jax` alone, when it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array, real_dtype
from qgf_ref.errors import InputError
from qgf_ref.user_code import error_summary

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise InputError("qgf_ref.adapters.jax needs JAX: pip install jax") from error


class JaxCache(NamedTuple):
    """The arguments, and the vjp as JAX returned it."""

    arguments: tuple[Any, ...]
    x: Any
    pull: Any


class JaxFunction:
    """An `Autodiff` of a function of JAX arrays; forward and vjp share one linearisation.

    Raises InputError for float64 without jax_enable_x64.
    """

    differenced: tuple[str, ...] = ()

    def __init__(self, function: Callable[..., Any], what: str, dtype: Any, jit: bool) -> None:
        if not callable(function):
            raise InputError(f"{what} must be a function, got {type(function).__name__}")
        self.what, self.jit = what, jit
        self.dtype = real_dtype(jnp.zeros(()).dtype if dtype is None else dtype)
        if self.dtype.name == "float64" and not jax.config.jax_enable_x64:
            raise InputError(
                'float64 is off in JAX: jax.config.update("jax_enable_x64", True) before any array'
            )

        def at(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
            obs, *time = arguments
            return lambda x: function(obs, x, *time)

        def forward(arguments: Any, x: Any) -> Any:
            return jax.vjp(at(arguments), x)

        def jvp(arguments: Any, x: Any, x_dot: Any) -> Any:
            return jax.jvp(at(arguments), (x,), (x_dot,))[1]

        def hvp(arguments: Any, x: Any, x_dot: Any, y_bar: Any) -> Any:
            def pulled(z: Any) -> Any:
                return jax.vjp(at(arguments), z)[1](y_bar)[0]

            return jax.jvp(pulled, (x,), (x_dot,))[1]

        compiled = jax.jit if jit else lambda f: f
        self._forward, self._jvp, self._hvp = compiled(forward), compiled(jvp), compiled(hvp)
        self._vjp = compiled(lambda pull, y_bar: pull(y_bar)[0])

    def observation(self, obs: Array) -> Any:
        """A JAX array in `dtype`."""
        return jnp.asarray(obs, self.dtype)

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, JaxCache]:
        """y, and its vjp. Raises InputError when the function raises, or returns no array."""
        arguments = (obs,) if time is None else (obs, jnp.asarray(time, self.dtype))
        at = jnp.asarray(x, self.dtype)
        try:
            y, pull = self._forward(arguments, at)
        except Exception as error:
            hint = ""
            if self.jit and isinstance(error, jax.errors.JAXTypeError | TypeError):
                hint = "; where it needs concrete values, or observations are no arrays: jit=False"
            raise InputError(f"{self.what} raised {error_summary(error)}{hint}") from error
        if not isinstance(y, jax.Array):
            raise InputError(f"{self.what} must return an array, it returned {type(y).__name__}")
        return np.asarray(y), JaxCache(arguments, at, pull)

    def vjp(self, y_bar: Array, cache: JaxCache) -> Array:
        """By jax.vjp."""
        return np.asarray(self._vjp(cache.pull, jnp.asarray(y_bar, self.dtype)))

    def jvp(self, x_dot: Array, cache: JaxCache) -> Array:
        """By jax.jvp."""
        along = jnp.asarray(x_dot, self.dtype)
        return np.asarray(self._jvp(cache.arguments, cache.x, along))

    def hvp(self, x_dot: Array, y_bar: Array, cache: JaxCache) -> Array:
        """By jax.jvp of jax.vjp."""
        along, bar = (jnp.asarray(z, self.dtype) for z in (x_dot, y_bar))
        return np.asarray(self._hvp(cache.arguments, cache.x, along, bar))
