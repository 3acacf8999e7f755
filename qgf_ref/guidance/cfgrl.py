"""CFGRL: classifier-free guidance between two conditions of one flow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products
from qgf_ref.ops.structure import axpy


@dataclass(frozen=True)
class CFGRL(Estimator):
    """G = v₁ − v₀, sampled on v₀: the velocity is v₀ + w·(v₁ − v₀).

    v_o is a flow conditioned on whether the action's advantage is positive
    (`losses.auxiliary.cfgrl_loss`); `on` puts v₀ in the place of the behaviour-cloning policy.
    w = 1 samples the better actions, w > 1 extrapolates; the official weights are 1, 2, 3, 5, 10,
    15. The critic only ranks (best-of-N): the online critic, as in the official code, or the target
    critic of a flow that has no other. Not a gradient field. Products: 1 forward of v₁, counted as
    a field's; and one of v₀ on a flow whose field is another. Source: method.md, section 4;
    official.md, sections 6 and 7.
    """

    name = "cfgrl"
    summary = "v₁ − v₀ of a flow conditioned on A > 0, sampled on v₀"
    recordable = True
    auxiliary = "cfgrl"
    default_weights = (1.0, 2.0, 3.0, 5.0, 10.0, 15.0)

    def on(self, flow: GuidedFlow) -> GuidedFlow:
        """The flow with v₀ as its field, ranked by the online critic."""
        field, ranking = self.network(flow.auxiliary.cfgrl)[0], flow.online_critic or flow.critic
        return replace(flow, field=field, critic=ranking, online_critic=None)

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """v₁ − v₀ at a_t; v₀ is the step's velocity when the flow is CFGRL's own."""
        v0, v1 = self.network(flow.auxiliary.cfgrl)
        unconditional = step.velocity
        if flow.field is not v0:
            unconditional, _ = v0.forward(step.obs, step.action, step.time)
        conditional, _ = v1.forward(step.obs, step.action, step.time)
        return Guidance(flow.kernels(axpy, -1.0, unconditional, conditional))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One field forward, or two."""
        own = flow.field is self.network(flow.auxiliary.cfgrl)[0]
        return Products(field_forward=1 if own else 2)
