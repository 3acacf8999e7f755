"""Every estimator once more, from its definition and the complex step: no vjp is used here.

Jacobians and gradients come column by column from forwards at complex arguments, so that an error
in a hand-written product, or in how an estimator composes products, cannot hide. The critic's
Hessian alone is taken through its vjp, which is checked by values. Two helpers are shared with the
estimators and have tests of their own: the polar factor of a given matrix, and the smoothing draws
of a given seed.
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
from qgf_ref.guidance.cfgrl import CFGRL
from qgf_ref.guidance.none import NoGuidance
from qgf_ref.guidance.ood import OOD
from qgf_ref.guidance.qgf import QGF
from qgf_ref.guidance.qgf_chain import QGFChain
from qgf_ref.guidance.qgf_covariance import QGFCovariance
from qgf_ref.guidance.qgf_distill import QGFDistill, QGFJacobianDistill
from qgf_ref.guidance.qgf_jacobian import QGFJacobian, QGFJacobianUnmasked
from qgf_ref.guidance.qgf_jacobian_ortho import QGFJacobianOrtho, polar_vjp
from qgf_ref.guidance.qgf_jacobian_regularized import QGFJacobianRegularized
from qgf_ref.guidance.qgf_jacobian_scheduled import QGFJacobianScheduled
from qgf_ref.guidance.qgf_jacobian_smooth import QGFJacobianSmooth, shared_noise
from qgf_ref.guidance.qgf_masked import QGFMasked
from qgf_ref.guidance.qgf_shifted import QGFShifted
from qgf_ref.guidance.queries import bounded, critic_gradient, critic_value
from qgf_ref.guidance.robust_q import RobustQ
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


def critic_hessian(flow: GuidedFlow, obs: Array, x: Array) -> Array:
    """∇²Q(s, x) (B, D, D) of the aggregated critic: its gradient's Jacobian by complex step.

    Here the critic's vjp is used, checked as it is by values alone; its jvp (the hvp) is not.
    """
    return jacobian(lambda y: critic_gradient(flow, obs, y).gradient, x)


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

    def predicted(x: Array) -> Array:
        network = estimator.network(flow.auxiliary.distill)
        return bounded(flow, network.forward(obs, x, t)[0]).x

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
        case QGFCovariance(iterations=iterations):
            limit = flow.times[1] if flow.denoise_steps > 1 else 0.5
            time = t if step.index else limit
            j = jacobian(lambda x: unclipped(x, time), a)
            C = (1 - time) ** 2 / time * (j + np.swapaxes(j, 1, 2)) / 2
            x = one_step(a)
            shift = conjugate_shift(
                q_gradient(x), C, -critic_hessian(flow, obs, x), step.weight, iterations
            )
            return shift / (1 - t)
        case QGFShifted(passes=passes, grid=grid):
            return shifted_definition(flow, step, q_gradient, passes, grid)
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
        case QGFDistill():
            return q_gradient(predicted(a))
        case QGFJacobianDistill():
            return gradient(lambda x: critic_value(flow, obs, predicted(x)), a)
        case RobustQ():
            noisy = estimator.network(flow.auxiliary.robust_q)
            return gradient(lambda x: noisy.forward(obs, x, t)[0], a)
        case CFGRL():
            v0, v1 = estimator.network(flow.auxiliary.cfgrl)
            return v1.forward(obs, a, t)[0] - v0.forward(obs, a, t)[0]
        case _:
            return potential_gradient(estimator, flow, step)


def conjugate_shift(
    gradient: Array, covariance: Array, curvature: Array, weight: float | Array, directions: int
) -> Array:
    """d/w (B, D) of `qgf_covariance`, row by row with dense matrices.

    The directions are those of Krylov's space {b, CAb/w, …}·C, made conjugate to A = C⁻¹ + wM by
    Gram and Schmidt, where the estimator has a recurrence and never forms C⁻¹.
    """
    weights = np.broadcast_to(np.asarray(weight, dtype=float).reshape(-1), len(gradient))
    shift = np.zeros_like(gradient)
    for row, (g, C, M, w) in enumerate(zip(gradient, covariance, curvature, weights, strict=True)):
        inverse = np.linalg.inv(C)
        A = inverse + w * M
        basis: list[Array] = []
        left, v = g, C @ g
        for _ in range(min(directions, len(g))):
            if left @ C @ left <= 0:  # a learned J₀ is no covariance along it
                break
            p = v - sum((b * (b @ A @ v) / (b @ A @ b) for b in basis), np.zeros_like(v))
            if basis and np.linalg.norm(p) < 1e-9 * np.linalg.norm(v):
                break
            convex = w * (p @ M @ p) < 0
            stiffness = p @ (inverse if convex else A) @ p
            if stiffness <= 0:
                break
            shift[row] += p * (p @ g) / stiffness
            if convex:
                break
            basis.append(p)
            left, v = g - A @ shift[row], C @ (A @ p)
    return shift


def shifted_definition(
    flow: GuidedFlow,
    step: DenoisingStep,
    q_gradient: Callable[[Array], Array],
    passes: int,
    grid: bool,
) -> Array:
    """G (B, D) of `qgf_shifted`, row by row in the natural parameters η = λx/t and λ."""
    k, t = step.index, step.time
    weights = np.broadcast_to(np.asarray(step.weight, dtype=float).reshape(-1), len(step.action))
    times = flow.times[max(k, 1) :] or (0.5,)
    result = np.zeros_like(step.action)
    for row, w in enumerate(weights):
        if w == 0:  # stated: no guidance
            continue
        obs, a = step.obs[row : row + 1], step.action[row : row + 1]

        def denoised(x: Array, time: float, obs: Array = obs) -> Array:
            return x + (1 - time) * flow.field.forward(obs, x, time)[0]

        mean = denoised(a, t)
        m = bounded(flow, mean).x
        least = (times[0] / (1 - times[0])) ** 2
        g, mu = row_gradient(q_gradient, step, row, m), 0.0
        for n in range(passes):
            wanted = max((t / (1 - t)) ** 2 + w * mu, least)
            time = wanted**0.5 / (1 + wanted**0.5)
            if grid:
                time = min(times, key=lambda u: abs(np.log((u / (1 - u)) ** 2 / wanted)))
            gained = (time / (1 - time)) ** 2 - (t / (1 - t)) ** 2
            eta = a * t / (1 - t) ** 2 + w * g + gained * m
            moved = denoised(eta * (1 - time) ** 2 / time, time)
            if n + 1 < passes:  # the last pass leaves μ as it used it
                there = bounded(flow, moved).x
                fall = np.vdot(row_gradient(q_gradient, step, row, there) - g, there - m)
                # both may be clipped to the same point
                mu = max(-fall, 0.0) / (np.vdot(there - m, there - m) or 1.0)
        if t == 0:
            still = denoised(times[0] * m, times[0])
            mean = mean + max(1 - w * mu / least, 0) * (still - mean)
        result[row] = (moved - mean)[0] / (w * (1 - t))
    return result


def row_gradient(
    q_gradient: Callable[[Array], Array], step: DenoisingStep, row: int, x: Array
) -> Array:
    """∇Q (1, D) at x (1, D) for the observation of one row."""
    everywhere = np.repeat(x, len(step.action), axis=0)
    return q_gradient(everywhere)[row : row + 1]


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
