"""QGF-Jacobian with the schedule factor that the exact guidance has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import critic_gradient, one_step_estimate, one_step_vjp
from qgf_ref.ops.structure import scaled


def scheduled_step(flow: GuidedFlow, step: DenoisingStep) -> DenoisingStep:
    """The step at which J₀ is taken: `step`, but at t = 0 the first positive time of the grid."""
    if step.index:
        return step
    time = flow.times[1] if flow.denoise_steps > 1 else 0.5
    velocity, cache = flow.field.forward(step.obs, step.action, time)
    return replace(step, time=time, velocity=velocity, velocity_cache=cache)


@dataclass(frozen=True)
class QGFJacobianScheduled(Estimator):
    """G = ((1 − t)/t)·J₀ᵀ∇Q(s, â₁), J₀ = I + (1 − t)∂v/∂a_t.

    At t = 0 the factor is infinite and an exact field's J₀ is 0, with a finite limit of the
    product. Choice: the limit is taken as the value of ((1 − t)/t)·J₀ᵀ at the first positive time
    of the grid, t = 1/T, at the same a_0 and with the ∇Q of t = 0; the error is O(1/T). A learned
    field's J₀ at t = 0 is not exactly 0, and any smaller t would divide its error by t.

    Products: 1 critic forward, 1 critic vjp, 1 field vjp; at k = 0 one more field forward.
    With T = 1 there is no positive time on the grid and t = 1/2 takes its place.
    Source: method.md, section 6.
    """

    name = "qgf_jacobian_scheduled"
    summary = "((1−t)/t)·J₀ᵀ∇Q(s, â₁)"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁, pulled back to a_t and scheduled."""
        at_query = critic_gradient(flow, step.obs, one_step_estimate(flow, step).x)
        step = scheduled_step(flow, step)
        pulled_back = one_step_vjp(flow, at_query.gradient, step)
        factor = (1 - step.time) / step.time
        return replace(at_query, gradient=flow.kernels(scaled, factor, pulled_back))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient and one field vjp; one field forward more at k = 0."""
        return CRITIC_GRADIENT + Products(field_vjp=1, field_forward=1 if index == 0 else 0)
