"""Every estimator once more, from its definition and the complex step: no vjp is used here.

Jacobians and gradients come column by column from forwards at complex arguments, so that an error
in a hand-written product, or in how an estimator composes products, cannot hide. Two helpers are
shared with the estimators and have tests of their own: the polar factor of a given matrix, and the
smoothing draws of a given seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.checks import central_difference, complex_step
from qgf_ref.flow.euler import rollout
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.bptt import BPTT
from qgf_ref.guidance.none import NoGuidance
from qgf_ref.guidance.ood import OOD
from qgf_ref.guidance.qgf import QGF
from qgf_ref.guidance.qgf_chain import QGFChain
from qgf_ref.guidance.qgf_jacobian import QGFJacobian, QGFJacobianUnmasked
from qgf_ref.guidance.qgf_jacobian_ortho import QGFJacobianOrtho, polar_vjp
from qgf_ref.guidance.qgf_jacobian_regularized import QGFJacobianRegularized
from qgf_ref.guidance.qgf_jacobian_scheduled import QGFJacobianScheduled
from qgf_ref.guidance.qgf_jacobian_smooth import QGFJacobianSmooth, shared_noise
from qgf_ref.guidance.qgf_masked import QGFMasked
from qgf_ref.guidance.queries import bounded, critic_value
from qgf_ref.ops.structure import unit

DirectionalDerivative = Callable[[Callable[[Array], Array], Array, Array], Any]


def jacobian(
    f: Callable[[Array], Array], x: Array, by: DirectionalDerivative = complex_step
) -> Array:
    """∂f/∂x (B, N, D) of a rowwise f: (B, D) → (B, N), or (B, 1, D) of f: (B, D) → (B,).

    by  `complex_step`, or `central_difference` for an f that takes no complex arguments
    """
    columns = []
    for i in range(x.shape[1]):
        column = np.asarray(by(f, x, unit(x, i)))
        columns.append(column[:, None] if column.ndim == 1 else column)
    return np.stack(columns, axis=-1)


def gradient(f: Callable[[Array], Array], x: Array) -> Array:
    """∇f (B, D) of a rowwise scalar f: (B, D) → (B,)."""
    return jacobian(f, x)[:, 0]


def defined_gradient(estimator: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
    """G (B, D) of the estimator from its definition, or None for an estimator without one here.

    A user's estimator that declares a potential is its gradient.
    """
    obs, a, t = step.obs, step.action, step.time

    def unclipped(x: Array, time: float) -> Array:
        return x + (1 - time) * flow.field.forward(obs, x, time)[0]

    def one_step(x: Array) -> Array:
        return bounded(flow, unclipped(x, t)).x

    def endpoint(x: Array) -> Array:
        return bounded(flow, rollout(flow.field, obs, x, flow.times, start=step.index)[0]).x

    def q_gradient(x: Array) -> Array:
        return gradient(lambda y: critic_value(flow, obs, y), x)

    def pulled(j: Array, x_bar: Array) -> Array:
        return np.asarray(np.einsum("bij,bi->bj", j, x_bar))

    match estimator:
        case NoGuidance():
            return np.zeros_like(a)
        case OOD():
            return q_gradient(a)
        case QGF():
            return q_gradient(one_step(a))
        case QGFMasked():
            pre = unclipped(a, t)
            mask = complex_step(lambda x: bounded(flow, x).x, pre, np.ones_like(pre))
            return np.asarray(mask) * q_gradient(one_step(a))
        case QGFJacobian():
            return gradient(lambda x: critic_value(flow, obs, one_step(x)), a)
        case QGFJacobianUnmasked():
            return pulled(jacobian(lambda x: unclipped(x, t), a), q_gradient(one_step(a)))
        case QGFJacobianScheduled():
            limit = flow.times[1] if flow.denoise_steps > 1 else 0.5
            time = t if step.index else limit
            j = jacobian(lambda x: unclipped(x, time), a)
            return (1 - time) / time * pulled(j, q_gradient(one_step(a)))
        case QGFJacobianRegularized(lam=lam):
            x_bar = q_gradient(one_step(a))
            return (1 - lam) * x_bar + lam * pulled(jacobian(one_step, a), x_bar)
        case QGFJacobianOrtho():
            return polar_vjp(q_gradient(one_step(a)), jacobian(one_step, a))
        case QGFJacobianSmooth(draws=draws, sigma=sigma, seed=seed):
            near = [a + sigma * shared_noise(a, (seed, step.index, i)) for i in range(draws)]
            mean = sum(jacobian(one_step, x) for x in near) / draws
            return pulled(np.asarray(mean), q_gradient(one_step(a)))
        case BPTT():
            return gradient(lambda x: critic_value(flow, obs, endpoint(x)), a)
        case QGFChain():
            return q_gradient(endpoint(a))
        case _:
            return potential_gradient(estimator, flow, step)


def at_action(flow: GuidedFlow, step: DenoisingStep, action: Array) -> DenoisingStep:
    """The same step at another action, its velocity recomputed."""
    velocity, cache = flow.field.forward(step.obs, action, step.time)
    return DenoisingStep(step.obs, action, step.index, step.time, velocity, cache, step.weight)


def potential_gradient(estimator: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
    """∇Φ (B, D) of the estimator's declared potential, or None when it declares none.

    By complex step, or by central differences (h = 1e-6) for an estimator that is not analytic.
    """
    if estimator.potential(flow, step) is None:
        return None

    def phi(x: Array) -> Array:
        value = estimator.potential(flow, at_action(flow, step, x))
        assert value is not None
        return value

    return jacobian(phi, step.action, _derivative(estimator))[:, 0]


def _derivative(estimator: Estimator) -> DirectionalDerivative:
    return complex_step if estimator.analytic else central_difference


def departure_from_gradient_field(
    estimator: Estimator, flow: GuidedFlow, step: DenoisingStep
) -> Array:
    """‖A − Aᵀ‖/‖A + Aᵀ‖ of every row, (B,), with A = ∂G/∂a_t.

    0 for a gradient field (and where A is zero), 1 for a triangular A, infinite for a rotation.
    A by complex step, or by central differences for an estimator that is not analytic.
    """

    def g(x: Array) -> Array:
        return estimator(flow, at_action(flow, step, x)).gradient

    A = jacobian(g, step.action, _derivative(estimator))
    AT = np.swapaxes(A, 1, 2)
    skew = np.linalg.norm(A - AT, axis=(1, 2))
    symmetric = np.linalg.norm(A + AT, axis=(1, 2))
    without = np.where(skew > 0, np.inf, 0.0)
    return np.divide(skew, symmetric, out=without, where=symmetric > 0)
