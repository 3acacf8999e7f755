"""The exact guidance of closed-form flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products
from qgf_ref.nets.critic import Critic


@runtime_checkable
class ExactlyGuided(Protocol):
    """A field that knows its exactly guided velocity (`qgf_ref.flow.gaussian_mixture`)."""

    def guided_velocity(self, action: Array, time: float, critic: Critic, weight: float) -> Array:
        """The velocity (B, D) of the flow that ends in π ∝ π̂·exp(w·Q)."""
        ...


@dataclass(frozen=True)
class Oracle(Estimator):
    """G = (1/w)·((1 − t)/t)·∇ log h_t(a_t), h_t(x) = E[exp(w·Q(a_1)) | a_t = x], w = 1/β.

    Then v + w·G is exactly the velocity of the flow whose end is π ∝ π̂·exp(w·Q), and G is
    computed as (v_tilted − v)/w, which is regular at t = 0. Exact, hence closed-form flows only.
    Products: those of the field's closed form; no network.
    Raises InputError for a learned field, and for w that is not a positive scalar.
    Source: method.md, section 6.
    """

    name = "oracle"
    summary = "(1/w)·((1−t)/t)·∇log h_t (closed form only)"
    analytic = False

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The exact guidance."""
        if not isinstance(flow.field, ExactlyGuided):
            raise InputError(
                "the oracle estimator needs a flow with closed-form guidance, such as "
                "qgf_ref.MixtureFlow; a learned velocity field has none"
            )
        if np.size(step.weight) != 1 or not np.all(np.asarray(step.weight) > 0):
            raise InputError(
                f"the oracle needs one positive weight w = 1/β, got {step.weight}; "
                "for w = 0 use the estimator 'none'"
            )
        weight = float(np.asarray(step.weight).reshape(()))
        guided = flow.field.guided_velocity(step.action, step.time, flow.critic, weight)
        return Guidance((guided - step.velocity) / weight)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """No network is evaluated."""
        return Products()
