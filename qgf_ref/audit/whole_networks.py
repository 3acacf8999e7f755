"""The ledger of networks that are nobody's but their author's: one entry for each call of one.

Nothing inside of them is on the record; everything between them is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.guidance.counting import ProductCounter
from qgf_ref.ledger import Ledger
from qgf_ref.nets.products import optional


def field(network: Any, obs: Array, action: Array, time: float) -> tuple[Array, Any]:
    """v (B, D), and what its products need."""
    v, cache = network.forward(obs, action, time)
    return v, cache


def field_jvp(network: Any, action_dot: Array, cache: Any) -> Array:
    """(∂v/∂a) action_dot, (B, D)."""
    return optional(network, "jvp")(action_dot, cache)


def field_vjp(network: Any, velocity_bar: Array, cache: Any) -> Array:
    """(∂v/∂a)ᵀ velocity_bar, (B, D)."""
    return optional(network, "vjp")(velocity_bar, cache)


def critic(network: Any, obs: Array, action: Array) -> tuple[Array, Any]:
    """Q (E, B), and what its products need."""
    q, cache = network.forward(obs, action)
    return q, cache


def critic_jvp(network: Any, action_dot: Array, cache: Any) -> Array:
    """(∂Q/∂a) action_dot, (E, B)."""
    return optional(network, "jvp")(action_dot, cache)


def critic_vjp(network: Any, q_bar: Array, cache: Any) -> Array:
    """(∂Q/∂a)ᵀ q_bar, (B, D)."""
    return optional(network, "vjp")(q_bar, cache)


def critic_vjp_jvp(network: Any, action_dot: Array, q_bar: Array, cache: Any) -> Array:
    """(Σ_e q_bar_e ∂²Q_e/∂a²) action_dot, (B, D): the vjp's derivative."""
    return optional(network, "hvp")(action_dot, q_bar, cache)


OPERATIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("field", "forward"): field,
    ("field", "jvp"): field_jvp,
    ("field", "vjp"): field_vjp,
    ("critic", "forward"): critic,
    ("critic", "jvp"): critic_jvp,
    ("critic", "vjp"): critic_vjp,
    ("critic", "hvp"): critic_vjp_jvp,
}


class RecordingCounter(ProductCounter):
    """Counts what is asked of networks, and writes it into a ledger as one operation."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def ask(self, kind: str, product: str, network: Any, *args: Any) -> Any:
        """The network's answer, counted and recorded."""
        self.add(f"{kind}_{product}")
        return self.ledger(OPERATIONS[kind, product], network, *args)
