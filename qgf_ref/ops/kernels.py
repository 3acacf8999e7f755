"""How a primitive is run: the one interface between the algorithms and what executes them.

Networks, flows and estimators never call a primitive of `qgf_ref.ops` directly. They call
`kernels(primitive, *arguments)`. The reference kernels call the primitive as it stands; the
product ledger (`qgf_ref.ledger`) also writes down what went in and out; an accelerated backend
may substitute its own implementation of a primitive that it knows. The algorithms are thus
written once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Kernels(Protocol):
    """Runs a primitive of `qgf_ref.ops` (or an equal of it) on the given arguments."""

    def __call__(self, primitive: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the primitive returns."""
        ...


def reference_kernels(primitive: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The reference: the NumPy primitive itself."""
    return primitive(*args, **kwargs)
