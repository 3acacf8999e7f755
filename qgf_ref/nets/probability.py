"""A critic of logits as one of probabilities: q = σ(z), member by member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.nets.critic import Critic
from qgf_ref.nets.products import optional
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.logits import probability
from qgf_ref.ops.row_numbers import product


@dataclass(frozen=True)
class ProbabilityCritic:
    """Q_e = σ(z_e), z_e the members of `logits`; they are reduced after σ.

    ∂q = q(1 − q)·∂z: guidance fades where the goal is near certain or hopeless, as that of the
    logits does not. Under "min" a row's two gradients are parallel, under "mean" they are not.
    Source: goal_conditioned.md, section 6.
    """

    logits: Critic

    @property
    def aggregation(self) -> str:
        """That of the logits."""
        return self.logits.aggregation

    @property
    def kernels(self) -> Kernels:
        """Those of the logits, or the reference's."""
        kernels: Kernels = getattr(self.logits, "kernels", reference_kernels)
        return kernels

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """q (E, B). obs (B, O), action (B, D)."""
        z, cache = self.logits.forward(obs, action)
        q, slope = self.kernels(probability, z)
        return q, (q, slope, cache)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """q_dot (E, B)."""
        _, slope, inner = cache
        q_dot: Array = slope * optional(self.logits, "jvp")(action_dot, inner)
        return q_dot

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """(∂q/∂a)ᵀ q_bar, (B, D). q_bar (E, B)."""
        _, slope, inner = cache
        return self.logits.vjp(self.kernels(product, q_bar, slope), inner)

    def jvp_inputs(self, obs_dot: Array, action_dot: Array, cache: Any) -> Array:
        """q_dot (E, B) along a direction in (s, a)."""
        _, slope, inner = cache
        q_dot: Array = slope * optional(self.logits, "jvp_inputs")(obs_dot, action_dot, inner)
        return q_dot

    def vjp_inputs(self, q_bar: Array, cache: Any) -> tuple[Array, ...]:
        """(s_bar, a_bar). q_bar (E, B)."""
        _, slope, inner = cache
        bars: tuple[Array, ...] = optional(self.logits, "vjp_inputs")(q_bar * slope, inner)
        return bars

    def hvp_inputs(
        self, obs_dot: Array, action_dot: Array, q_bar: Array, cache: Any
    ) -> tuple[Array, ...]:
        """(s_bar_dot, a_bar_dot): the jvp of `vjp_inputs` along a direction in (s, a)."""
        q, slope, inner = cache
        z_dot = optional(self.logits, "jvp_inputs")(obs_dot, action_dot, inner)
        own = optional(self.logits, "hvp_inputs")(obs_dot, action_dot, q_bar * slope, inner)
        bent = optional(self.logits, "vjp_inputs")(q_bar * slope * (1 - 2 * q) * z_dot, inner)
        return tuple(a + b for a, b in zip(own, bent, strict=True))

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """(Σ q_bar ∂²q/∂a²) action_dot, (B, D): the logits' own, and σ″ = σ′(1 − 2q) times ∂z∂z."""
        q, slope, inner = cache
        z_dot = optional(self.logits, "jvp")(action_dot, inner)
        own = optional(self.logits, "hvp")(action_dot, q_bar * slope, inner)
        bent: Array = own + self.logits.vjp(q_bar * slope * (1 - 2 * q) * z_dot, inner)
        return bent


def logits_of(critic: Any) -> Any:
    """The critic of the logits of a `ProbabilityCritic`; another critic itself."""
    return critic.logits if type(critic) is ProbabilityCritic else critic
