"""What an adapter needs of a framework: one function, forward and with its products."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.user_code import error_summary


def raised(what: str, error: Exception, hint: str = "") -> InputError:
    """The error for a function that raised one."""
    if isinstance(error, TypeError) and "positional argument" in str(error):
        hint = f"; it is called as f(obs, x{', τ' if what == 'the field' else ''})"
    return InputError(f"{what} raised {error_summary(error)}{hint}")


def wrote(what: str) -> InputError:
    """The error for a function that changes what products ask it with again."""
    return InputError(f"{what} writes into its observations in place: let it work on a copy")


class Autodiff(Protocol):
    """A function y = f(obs, x) or f(obs, x, τ) of arrays, and its derivatives in x.

    x (B, …) and y are NumPy arrays in `dtype` on this side, the framework's on the other.
    """

    what: str
    """What it is in messages: "the field", "the critic"."""
    dtype: np.dtype[Any]
    """float32 or float64: in which the flow computes."""
    precision: str
    """The coarsest dtype in which it is known to compute: float64, float32, float16, bfloat16."""
    differenced: tuple[str, ...]
    """The products that come from central differences."""

    def observation(self, obs: Array) -> Any:
        """obs (B, O) as the framework's array."""
        ...

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, Any]:
        """y, and what the products need. time (B,), None of a critic."""
        ...

    def forward_only(self) -> Autodiff:
        """The same function, which keeps nothing for a vjp: one calls it again."""
        ...

    def redrawn(self, cache: Any) -> bool:
        """Whether it is traced once and would be traced otherwise another time."""
        ...

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        """(∂y/∂x)ᵀ y_bar, shaped like x."""
        ...

    def jvp(self, x_dot: Array, cache: Any) -> Array:
        """(∂y/∂x) x_dot, shaped like y."""
        ...

    def hvp(self, x_dot: Array, y_bar: Array, cache: Any) -> Array:
        """The derivative of `vjp` along x_dot, y_bar held; shaped like x."""
        ...
