"""The field and the critic of an adapted flow: NumPy outside, somebody's function inside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn

import numpy as np

from qgf_ref.adapters.actions import ActionLayout, Placement
from qgf_ref.adapters.autodiff import Autodiff
from qgf_ref.adapters.observations import Observations, take
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError


def _real(x: Array, dtype: np.dtype[Any], what: str) -> Array:
    if x.dtype.kind == "c":
        raise InputError(f"{what} takes no complex arguments: it is judged by differences")
    return np.ascontiguousarray(x, dtype)


def _returned(y: Array, dtype: np.dtype[Any], what: str) -> Array:
    if y.dtype.kind != "f":
        raise InputError(f"{what} must return real numbers, it returned {y.dtype}")
    return np.array(y, dtype)  # a copy: the function may keep one array for its answers


@dataclass(frozen=True)
class AdaptedField:
    """A `VelocityField` round a function u(obs, x, τ); obs_dim: O, or 1 of row numbers."""

    function: Autodiff
    layout: ActionLayout
    obs_dim: int
    observations: Observations | None

    @property
    def action_dim(self) -> int:
        """D."""
        return self.layout.action_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.function.dtype

    @property
    def differenced(self) -> tuple[str, ...]:
        """The products that come from central differences."""
        return self.function.differenced

    def forward_only(self) -> AdaptedField:
        """See `FieldAround`: a vjp is still right, and calls the function again."""
        return replace(self, function=self.function.forward_only())

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """u (B, D), and the function's cache. time () or one a row, of any shape.

        Raises InputError on a result of another shape or kind.
        """
        what = self.function.what
        x = self.layout.full(_real(action, self.dtype, what))
        tau = np.broadcast_to(np.asarray(time, self.dtype).reshape(-1), (len(x),))
        y, cache = _called(self, obs, x, tau)
        if y.shape != x.shape:
            raise InputError(f"{what} returned shape {y.shape}, expected that of x, {x.shape}")
        return self.layout.flat(_returned(y, self.dtype, what)), cache

    @property
    def precision(self) -> str:
        """The coarsest dtype in which the function is known to compute."""
        return self.function.precision

    def redrawn(self, cache: Any) -> bool:
        """See `Autodiff`."""
        return self.function.redrawn(cache)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂u/∂a) action_dot, (B, D)."""
        x_dot = self.layout.full(_real(action_dot, self.dtype, self.function.what), 0.0)
        return self.layout.flat(np.asarray(self.function.jvp(x_dot, cache), self.dtype))

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """(∂u/∂a)ᵀ velocity_bar, (B, D)."""
        y_bar = self.layout.full(_real(velocity_bar, self.dtype, self.function.what), 0.0)
        return self.layout.flat(np.asarray(self.function.vjp(y_bar, cache), self.dtype))


@dataclass(frozen=True)
class AdaptedCritic:
    """A `Critic` round a function Q(obs, x), asked on the real block of the action."""

    function: Autodiff
    block: Placement
    aggregation: str
    observations: Observations | None

    @property
    def differenced(self) -> tuple[str, ...]:
        """The products that come from central differences."""
        return self.function.differenced

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Q (E, B), and the function's cache with the shape of what it returned.

        Raises InputError on a result of another shape or kind.
        """
        what, dtype = self.function.what, self.function.dtype
        x = self.block.gathered(_real(action, dtype, what))
        y, cache = _called(self, obs, x, None)
        q = y[None] if y.ndim == 1 else y
        if q.ndim != 2 or q.shape[1] != len(x):
            turned = (
                " (members come first: transpose it)"
                if q.shape[:1] == (len(x),) and q.ndim == 2
                else ""
            )
            raise InputError(
                f"{what} returned shape {y.shape} for {len(x)} rows, expected (B,), or (E, B) of "
                f"an ensemble{turned}"
            )
        return _returned(q, dtype, what), (cache, y.shape)

    @property
    def precision(self) -> str:
        """The coarsest dtype in which the function is known to compute."""
        return self.function.precision

    def redrawn(self, cache: Any) -> bool:
        """See `Autodiff`."""
        return self.function.redrawn(cache[0])

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂Q/∂a) action_dot, (E, B)."""
        x_dot = self.block.gathered(self._real(action_dot))
        q_dot = np.asarray(self.function.jvp(x_dot, cache[0]), self.function.dtype)
        return q_dot[None] if q_dot.ndim == 1 else q_dot

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """(∂Q/∂a)ᵀ q_bar, (B, D): 0 on the padding."""
        inner, shape = cache
        x_bar = self.function.vjp(self._real(q_bar).reshape(shape), inner)
        return self.block.scattered(np.asarray(x_bar, self.function.dtype))

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """(Σ_e q_bar_e ∂²Q_e/∂a²) action_dot, (B, D)."""
        inner, shape = cache
        x_dot = self.block.gathered(self._real(action_dot))
        x_bar_dot = self.function.hvp(x_dot, self._real(q_bar).reshape(shape), inner)
        return self.block.scattered(np.asarray(x_bar_dot, self.function.dtype))

    def _real(self, x: Array) -> Array:
        return _real(x, self.function.dtype, self.function.what)


def _called(
    network: AdaptedField | AdaptedCritic, obs: Array, x: Array, time: Array | None
) -> tuple[Array, Any]:
    """The function's forward on what it is given in the place of obs."""
    held = network.observations
    if held is None:
        return network.function.forward(network.function.observation(obs), x, time)
    try:
        return network.function.forward(held.of(obs), x, time)
    except InputError as error:
        if not held.partly(obs):
            raise
        how = "select" if held.select is not take else "the first axis of every array (see select)"
        raise InputError(
            f"{error} (it was given {len(x)} rows out of {held.count} observations, by {how})"
        ) from error


@dataclass(frozen=True)
class NoCritic:
    """In place of a critic where there is none: whoever asks is told so."""

    aggregation: str = "min"

    absent: ClassVar[bool] = True
    """What a record asks before it asks for Q."""

    def _missing(self, *args: Array) -> NoReturn:
        raise InputError(
            "this flow has no critic: only the estimator 'none' works without one, and best of 1; "
            "give the adapter critic=…"
        )

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """InputError."""
        self._missing()

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """InputError."""
        self._missing()

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """InputError."""
        self._missing()

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """InputError."""
        self._missing()
