"""Guidance by a critic that was trained on noisy actions."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.ops.structure import batch_sum_vjp


@dataclass(frozen=True)
class RobustQ(Estimator):
    """G = ∇Q_rob(s, a_t, t) in a_t, which is not clipped.

    Q_rob regresses on the target critic at the clean action (`losses.auxiliary.robust_q_loss`).
    The sum over the batch is differentiated, not its mean (official.md, D5). A gradient field, of
    Φ(a_t) = Q_rob(s, a_t, t). Products: 1 forward and 1 vjp of Q_rob, counted as the critic's
    (Q_rob has one member). Source: method.md, section 3; official.md, section 6.
    """

    name = "robust_q"
    summary = "∇Q_rob(s, a_t, t), Q_rob trained on noisy actions"
    recordable = True
    auxiliary = "robust_q"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q_rob at a_t."""
        critic = self.network(flow.auxiliary.robust_q)
        q, cache = critic.forward(step.obs, step.action, step.time)
        return Guidance(critic.vjp(flow.kernels(batch_sum_vjp, q), cache), step.action)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One gradient of Q_rob."""
        return CRITIC_GRADIENT

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array:
        """Q_rob(s, a_t, t)."""
        critic = self.network(flow.auxiliary.robust_q)
        return critic.forward(step.obs, step.action, step.time)[0]
