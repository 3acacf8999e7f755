"""The optional products of a network of the user's own: asked for where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qgf_ref.errors import InputError


class MissingProduct(InputError):
    """A network has no such product: only what needs it fails."""


def optional(network: Any, product: str) -> Callable[..., Any]:
    """The network's jvp or hvp. Raises MissingProduct, saying what to do, where it has none."""
    method = getattr(network, product, None)
    if method is None:
        raise MissingProduct(
            f"{type(network).__name__} has no {product}, which this estimator needs: write one "
            "(see qgf_ref.VelocityField, qgf_ref.Critic), or let qgf_ref.adapters make one"
        )
    asked: Callable[..., Any] = method
    return asked
