"""QGF-Jacobian with every singular value of its Jacobian set to one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import (
    Query,
    bounded_vjp,
    critic_gradient,
    one_step_estimate,
    one_step_vjp,
)
from qgf_ref.ops.structure import unit


def one_step_jacobian(flow: GuidedFlow, step: DenoisingStep, query: Query) -> Array:
    """J = ∂â₁/∂a_t of every row, (B, D, D), row i of it by the vjp of the unit cotangent e_i."""
    D = step.action.shape[1]
    rows = []
    for i in range(D):
        e_i = flow.kernels(unit, step.action, i)
        rows.append(one_step_vjp(flow, bounded_vjp(flow, e_i, query), step))
    return flow.kernels(stack_rows, *rows)


def stack_rows(*rows: Array) -> Array:
    """D arrays (B, D) as one (B, D, D), row i of each matrix from the i-th."""
    return np.stack(rows, axis=1)


def polar_vjp(x_bar: Array, jacobian: Array) -> Array:
    """(UVᵀ)ᵀ x_bar with J = USVᵀ (B, D, D): the orthogonal polar factor, transposed, times x_bar.

    Where J is singular (a clipped coordinate is a zero row) the factor is not unique; the partial
    isometry that leaves out singular values below D·eps·max S is the canonical one.
    """
    U, S, Vt = np.linalg.svd(jacobian)
    D = jacobian.shape[-1]
    keep = D * np.finfo(S.dtype).eps * S.max(axis=-1, keepdims=True, initial=0) < S
    in_u = np.einsum("bij,bi->bj", U, x_bar) * keep
    return np.asarray(np.einsum("bji,bj->bi", Vt, in_u))


@dataclass(frozen=True)
class QGFJacobianOrtho(Estimator):
    """G = (UVᵀ)ᵀ∇Q(s, â₁) with J = USVᵀ: the Jacobian's rotation without its scaling.

    The only estimator that forms J. Products: 1 critic forward, 1 critic vjp, D field vjps, and a
    singular value decomposition for every row. Source: method.md, section 3 [choice].
    """

    name = "qgf_jacobian_ortho"
    summary = "(UVᵀ)ᵀ∇Q(s, â₁), J = USVᵀ"
    analytic = False

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁, rotated by the polar factor of J."""
        query = one_step_estimate(flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        jacobian = one_step_jacobian(flow, step, query)
        gradient = flow.kernels(polar_vjp, at_query.gradient, jacobian)
        return replace(at_query, gradient=gradient)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient and D field vjps."""
        return CRITIC_GRADIENT + Products(field_vjp=flow.field.action_dim)
