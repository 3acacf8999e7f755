"""Every estimator once more, from its definition and the complex step: one function for each.

See `qgf_ref.audit.by_oracle` for what they are written in. Two helpers are shared with the
estimators and have tests of their own: the polar factor of a given matrix, and the smoothing draws
of a given seed. A new estimator's definition is one more function here; a user's is registered
in the same way, or is the gradient of the potential that the estimator declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import (
    OracleStep,
    along,
    at_action,
    critic_hessian,
    departure_from_gradient_field,
    gradient,
    jacobian,
    potential_gradient,
    pulled,
)
from qgf_ref.audit.option_definitions import base_step, option_defined, option_definition
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.bptt import BPTT
from qgf_ref.guidance.cfgrl import CFGRL
from qgf_ref.guidance.none import NoGuidance
from qgf_ref.guidance.ood import OOD
from qgf_ref.guidance.options.base import Wrapped
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
from qgf_ref.guidance.queries import bounded
from qgf_ref.guidance.robust_q import RobustQ

__all__ = [
    "OracleStep",
    "at_action",
    "critic_hessian",
    "defined_gradient",
    "defines",
    "departure_from_gradient_field",
    "gradient",
    "has_definition",
    "jacobian",
    "potential_gradient",
    "pulled",
]

Definition = Callable[[Any, OracleStep], Array]
"""(estimator, step) → G (B, D), by forwards and the complex step alone."""
D = TypeVar("D", bound=Definition)
_DEFINITIONS: dict[type[Estimator], Definition] = {}


def defines(kind: type[Estimator]) -> Callable[[D], D]:
    """Register the function below as the definition of `kind` and of its subclasses.

        @defines(MyEstimator)
        def _(estimator, at):
            return gradient(lambda x: at.q(at.one_step(x)), at.step.action)

    It must not use what it is to check: no vjp, no method of the estimator.
    """

    def register(definition: D) -> D:
        _DEFINITIONS[kind] = definition
        return definition

    return register


def _definition(estimator: Estimator) -> Definition | None:
    if isinstance(estimator, Wrapped):
        known = option_defined(estimator) and has_definition(estimator.base)
        return _wrapped if known else None
    kinds = (_DEFINITIONS.get(kind) for kind in type(estimator).__mro__)
    return next((definition for definition in kinds if definition is not None), None)


def has_definition(estimator: Estimator) -> bool:
    """Whether the estimator's G is defined here, not only by a potential of its own."""
    return _definition(estimator) is not None


def defined_gradient(
    estimator: Estimator, flow: GuidedFlow, step: DenoisingStep, at: OracleStep | None = None
) -> Array | None:
    """G (B, D) of the estimator from its definition, or None for an estimator without one.

    Without a definition, a declared potential's gradient. at: the same flow and step, with what
    earlier definitions have computed there.
    """
    definition = _definition(estimator)
    if definition is None:
        return potential_gradient(estimator, flow, step)
    return definition(estimator, at or OracleStep(flow, step))


def _wrapped(e: Wrapped, at: OracleStep) -> Array:
    inner = base_step(e, at)
    g = defined_gradient(e.base, at.flow, inner.step, inner)
    assert g is not None  # the base has a definition
    return option_definition(e, at, g)


@defines(NoGuidance)
def _none(_: NoGuidance, at: OracleStep) -> Array:
    return np.zeros_like(at.step.action)


@defines(OOD)
def _ood(_: OOD, at: OracleStep) -> Array:
    return gradient(at.q, at.step.action)


@defines(QGF)
def _qgf(_: QGF, at: OracleStep) -> Array:
    return at.estimate_gradient()


@defines(QGFMasked)
def _qgf_masked(_: QGFMasked, at: OracleStep) -> Array:
    pre = at.unclipped(at.step.action)
    (mask,) = along(lambda x: bounded(at.flow, x).x, pre, [np.ones_like(pre)], what="the clip")
    return mask * at.estimate_gradient()


@defines(QGFJacobian)
def _qgf_jacobian(_: QGFJacobian, at: OracleStep) -> Array:
    return gradient(lambda x: at.q(at.one_step(x)), at.step.action)


@defines(QGFJacobianUnmasked)
def _qgf_jacobian_unmasked(_: QGFJacobianUnmasked, at: OracleStep) -> Array:
    return pulled(at.unclipped_jacobian(), at.estimate_gradient())


@defines(QGFJacobianScheduled)
def _qgf_jacobian_scheduled(_: QGFJacobianScheduled, at: OracleStep) -> Array:
    time = at.scheduled_time
    return (1 - time) / time * pulled(at.unclipped_jacobian(time), at.estimate_gradient())


@defines(QGFJacobianRegularized)
def _qgf_jacobian_regularized(e: QGFJacobianRegularized, at: OracleStep) -> Array:
    x_bar = at.estimate_gradient()
    return (1 - e.lam) * x_bar + e.lam * pulled(at.jacobian(), x_bar)


@defines(QGFJacobianOrtho)
def _qgf_jacobian_ortho(_: QGFJacobianOrtho, at: OracleStep) -> Array:
    return polar_vjp(at.estimate_gradient(), at.jacobian())


@defines(QGFJacobianSmooth)
def _qgf_jacobian_smooth(e: QGFJacobianSmooth, at: OracleStep) -> Array:
    a, k = at.step.action, at.step.index
    near = [a + e.sigma * shared_noise(a, (e.seed, k, i)) for i in range(e.draws)]
    mean = sum(jacobian(at.one_step, x) for x in near) / e.draws
    return pulled(np.asarray(mean), at.estimate_gradient())


@defines(BPTT)
def _bptt(_: BPTT, at: OracleStep) -> Array:
    return gradient(lambda x: at.q(at.endpoint(x)), at.step.action)


@defines(QGFChain)
def _qgf_chain(_: QGFChain, at: OracleStep) -> Array:
    return gradient(at.q, at.endpoint(at.step.action))


def _predicted(e: QGFDistill | QGFJacobianDistill, at: OracleStep, x: Array) -> Array:
    network = e.network(at.flow.auxiliary.distill)
    return bounded(at.flow, network.forward(at.step.obs, x, at.step.time)[0]).x


@defines(QGFDistill)
def _qgf_distill(e: QGFDistill, at: OracleStep) -> Array:
    return gradient(at.q, _predicted(e, at, at.step.action))


@defines(QGFJacobianDistill)
def _qgf_jacobian_distill(e: QGFJacobianDistill, at: OracleStep) -> Array:
    return gradient(lambda x: at.q(_predicted(e, at, x)), at.step.action)


@defines(RobustQ)
def _robust_q(e: RobustQ, at: OracleStep) -> Array:
    noisy, step = e.network(at.flow.auxiliary.robust_q), at.step
    return gradient(lambda x: noisy.forward(step.obs, x, step.time)[0], step.action)


@defines(CFGRL)
def _cfgrl(e: CFGRL, at: OracleStep) -> Array:
    step = at.step
    v0, v1 = (
        v.forward(step.obs, step.action, step.time)[0] for v in e.network(at.flow.auxiliary.cfgrl)
    )
    return v1 - v0


@defines(QGFCovariance)
def _qgf_covariance(e: QGFCovariance, at: OracleStep) -> Array:
    time, weight = at.scheduled_time, at.step.weight
    j = at.unclipped_jacobian(time)
    C = (1 - time) ** 2 / time * (j + np.swapaxes(j, 1, 2)) / 2
    shift = conjugate_shift(at.estimate_gradient(), C, -at.estimate_hessian(), weight, e.iterations)
    return shift / (1 - at.step.time)


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


@defines(QGFShifted)
def _qgf_shifted(e: QGFShifted, at: OracleStep) -> Array:
    """The same for `qgf_shifted_taylor`, whose acceleration is not part of G."""
    name = ("shifted", e.passes, e.grid)
    return at.once(name, lambda: shifted_definition(at, e.passes, e.grid))


def shifted_definition(at: OracleStep, passes: int, grid: bool) -> Array:
    """G (B, D) of `qgf_shifted`, row by row in the natural parameters η = λx/t and λ."""
    flow, step = at.flow, at.step
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
        g, mu = at.row_gradient(row, m), 0.0
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
                fall = np.vdot(at.row_gradient(row, there) - g, there - m)
                # both may be clipped to the same point
                mu = max(-fall, 0.0) / (np.vdot(there - m, there - m) or 1.0)
        if t == 0:
            still = denoised(times[0] * m, times[0])
            mean = mean + max(1 - w * mu / least, 0) * (still - mean)
        result[row] = (moved - mean)[0] / (w * (1 - t))
    return result
