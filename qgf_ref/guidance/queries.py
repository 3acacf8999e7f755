"""The query points of the estimators and the critic's gradient there: written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.euler import RolloutCache, rollout, rollout_vjp
from qgf_ref.guidance.base import DenoisingStep, Guidance, GuidedFlow
from qgf_ref.nets.products import optional
from qgf_ref.ops.clip import ClipCache, clip, clip_vjp
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp, lower_bound
from qgf_ref.ops.structure import axpy, batch_sum_vjp, scaled


class Query(NamedTuple):
    """A query point x (B, D), and the clip's cache (None when the flow has no action bound)."""

    x: Array
    clip: ClipCache | None


def bounded(flow: GuidedFlow, x: Array) -> Query:
    """x clipped to the flow's action bound, if it has one."""
    if flow.bound is None:
        return Query(x, None)
    return Query(*flow.kernels(clip, x, flow.bound))


def bounded_vjp(flow: GuidedFlow, x_bar: Array, query: Query) -> Array:
    """The clip's mask applied to x_bar."""
    return x_bar if query.clip is None else flow.kernels(clip_vjp, x_bar, query.clip)


def one_step_estimate(flow: GuidedFlow, step: DenoisingStep) -> Query:
    """â₁ = clip(a_t + (1 − t)·v(s, a_t, t)). Source: method.md, section 3."""
    return bounded(flow, one_step_unclipped(flow, step))


def one_step_unclipped(flow: GuidedFlow, step: DenoisingStep) -> Array:
    """D(s, a_t, t) = a_t + (1 − t)·v(s, a_t, t), (B, D): with an exact v, E[a_1 | a_t]."""
    mean: Array = flow.kernels(axpy, 1 - step.time, step.velocity, step.action)
    return mean


def one_step_jvp(flow: GuidedFlow, x_dot: Array, step: DenoisingStep) -> Array:
    """J₀ x_dot with J₀ = I + (1 − t)·∂v/∂a_t: one jvp of v, the clip left out."""
    velocity_dot = optional(flow.field, "jvp")(x_dot, step.velocity_cache)
    return flow.kernels(axpy, 1 - step.time, velocity_dot, x_dot)


def one_step_vjp(flow: GuidedFlow, x_bar: Array, step: DenoisingStep) -> Array:
    """J₀ᵀ x_bar with J₀ = I + (1 − t)·∂v/∂a_t: one vjp of v, the clip left out."""
    velocity_bar = flow.kernels(scaled, 1 - step.time, x_bar)
    return flow.kernels(axpy, 1.0, flow.field.vjp(velocity_bar, step.velocity_cache), x_bar)


def ode_endpoint(flow: GuidedFlow, step: DenoisingStep) -> tuple[Query, RolloutCache]:
    """clip(ODE(a_t)): Euler from t to 1, the first step with the velocity at hand, then clip."""
    endpoint, cache = rollout(
        flow.field,
        step.obs,
        step.action,
        flow.times,
        start=step.index,
        first=(step.velocity, step.velocity_cache),
        kernels=flow.kernels,
    )
    return bounded(flow, endpoint), cache


def ode_endpoint_vjp(flow: GuidedFlow, x_bar: Array, endpoint: Query, cache: RolloutCache) -> Array:
    """(∂clip(ODE)/∂a_t)ᵀ x_bar: the clip's mask, then a vjp through every step."""
    return rollout_vjp(flow.field, bounded_vjp(flow, x_bar, endpoint), cache, flow.kernels)


def critic_value(flow: GuidedFlow, obs: Array, x: Array) -> Array:
    """The aggregated critic Q(s, x), (B,)."""
    q, _ = flow.critic.forward(obs, x)
    return flow.kernels(ensemble_reduce, q, flow.critic.aggregation)[0]


def members_at(flow: GuidedFlow, obs: Array, x: Array) -> Array:
    """Q(s, x) of every member, (E, B), for a record; E = 0 of a flow without a critic."""
    if getattr(flow.critic, "absent", False):
        return np.zeros((0, len(x)), flow.field.dtype)
    q: Array = flow.critic.forward(obs, x)[0]
    return q


@dataclass(frozen=True)
class Curvature:
    """∇²Q(s, x) of the aggregated critic at a query point, as a product with directions.

    Of min, the Hessian of the member that attains it: where another takes over, Q has a kink, and
    no second derivative. q_bar (E, B) and the critic's cache are those of the gradient at x.
    """

    flow: GuidedFlow
    q_bar: Array
    cache: Any

    def product(self, x_dot: Array) -> Array:
        """∇²Q·x_dot, (B, D), each row its own: one critic hvp, no forward. x_dot (B, D).

        Raises InputError for a lower confidence bound.
        """
        if lower_bound(self.flow.critic.aggregation) is not None:
            raise InputError(
                "the curvature of a lower confidence bound is not only its members': "
                "qgf_covariance takes min or mean, qgf_shifted any aggregation"
            )
        return optional(self.flow.critic, "hvp")(x_dot, self.q_bar, self.cache)


def critic_gradient(flow: GuidedFlow, obs: Array, x: Array) -> Guidance:
    """∇Q(s, x) of the aggregated critic with respect to x, one row at a time.

    The scalar that is differentiated is the *sum* of Q over the batch, so no row's gradient
    depends on another row or on B (official.md, section 5; D5 is the mean's defect).
    """
    return critic_curvature(flow, obs, x)[0]


def critic_curvature(flow: GuidedFlow, obs: Array, x: Array) -> tuple[Guidance, Curvature]:
    """`critic_gradient`, and ∇²Q(s, x) at the same point from the same forward and vjp."""
    q, cache = flow.critic.forward(obs, x)
    value, reduced = flow.kernels(ensemble_reduce, q, flow.critic.aggregation)
    value_bar = flow.kernels(batch_sum_vjp, value)
    q_bar = flow.kernels(ensemble_reduce_vjp, value_bar, reduced)
    return Guidance(flow.critic.vjp(q_bar, cache), x, q), Curvature(flow, q_bar, cache)
