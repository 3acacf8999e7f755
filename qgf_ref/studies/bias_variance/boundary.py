"""When does dropping the Jacobian win? Predicted from the exact problem, and measured.

Near exact networks G is linear in the errors: G = G₀ + noise, E‖noise‖² = V. The error of c·G at
its best scale c, over the path, is then

    error² = 1 − cos₀²/(1 + V/‖G₀‖²),    cos₀² = ⟨G₀, g*⟩²/(‖G₀‖²‖g*‖²)

and with G = Fᵀ∇Q(â₁), F = I (qgf), J₀ (qgf_jacobian) or ((1−t)/t)J₀ (scheduled), κ = 0, 1 or
(1−t)/t, errors of sd e of Q and η of each component of v, e' and η' = amplitude/length of their
gradients,

    V = e'²‖F‖² + (1−t)²η²‖MF‖² + κ²(1−t)²η'²·n·‖∇Q‖²

(noise of ∇Q; shift of â₁ by (1−t) times the error of v; error of J itself: qgf has only the first
two, with F = I). The boundary is where two errors are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import DenoisingStep
from qgf_ref.guidance.qgf_jacobian_ortho import one_step_jacobian
from qgf_ref.guidance.queries import one_step_estimate
from qgf_ref.studies.bias_variance.errors import ideal_states
from qgf_ref.studies.shared.problems import Errors, Problem

PREDICTED = ("qgf", "qgf_jacobian", "qgf_jacobian_scheduled")
"""The estimators of the form Fᵀ∇Q(â₁), of which the calculation speaks."""


@dataclass(frozen=True)
class LinearResponse:
    """Of one estimator, sums over the points of a path.

    along  ⟨G₀, g*⟩; size ‖G₀‖²; truth ‖g*‖²
    critic, shift, jacobian  V for e' = 1, for η = 1, for η' = 1
    """

    along: float
    size: float
    truth: float
    critic: float
    shift: float
    jacobian: float

    @property
    def aligned(self) -> float:
        """cos₀²."""
        return self.along**2 / (self.size * self.truth)

    def noise(self, errors: Errors) -> float:
        """V/‖G₀‖²."""
        critic = (errors.critic_amplitude / errors.critic_length) ** 2 * self.critic
        slope = errors.field_amplitude / errors.field_length
        field = errors.field_amplitude**2 * self.shift + slope**2 * self.jacobian
        return (critic + field) / self.size

    def error(self, errors: Errors) -> float:
        """The scaled error that the calculation predicts."""
        return float(np.sqrt(max(1 - self.aligned / (1 + self.noise(errors)), 0.0)))


def linear_response(problem: Problem, points: Array, truth: Array) -> dict[str, LinearResponse]:
    """Of every estimator of PREDICTED, at points (T, B, n) where the exact guidance is `truth`."""
    flow, M = problem.flow, problem.critic.curvature
    totals = {name: np.zeros(6) for name in PREDICTED}
    for k, (x, exact) in enumerate(zip(points, truth, strict=True)):
        step = problem.step(flow, x, k)
        gradient = problem.critic.gradient(one_step_estimate(flow, step).x)
        # the scheduled estimator takes its limit at the first positive time
        late = problem.step(flow, x, 1) if k == 0 else step
        for name in PREDICTED:
            at = late if name == "qgf_jacobian_scheduled" else step
            F, kappa = _factor(name, problem, at)
            guided = np.einsum("bij,bi->bj", F, gradient)
            jacobian = (kappa * (1 - at.time)) ** 2 * problem.n * (gradient**2).sum()
            shift = ((1 - step.time) * np.einsum("ij,bjk->bik", M, F)) ** 2
            totals[name] += [
                (guided * exact).sum(),
                (guided**2).sum(),
                (exact**2).sum(),
                (F**2).sum(),
                shift.sum(),
                jacobian,
            ]
    return {name: LinearResponse(*(float(x) for x in total)) for name, total in totals.items()}


@lru_cache(maxsize=4)
def response_of(problem: Problem, rows: int, seed: int) -> dict[str, LinearResponse]:
    """`linear_response` at the problem's `ideal_states`, kept for the cells that share them."""
    states = ideal_states(problem, rows, seed)
    return linear_response(problem, states.points, states.truth)


def _factor(name: str, problem: Problem, step: DenoisingStep) -> tuple[Array, float]:
    """F (B, n, n) and κ."""
    if name == "qgf":
        return np.broadcast_to(np.eye(problem.n), (len(step.action), problem.n, problem.n)), 0.0
    kappa = 1.0 if name == "qgf_jacobian" else (1 - step.time) / step.time
    query = one_step_estimate(problem.flow, step)
    return kappa * one_step_jacobian(problem.flow, step, query), kappa


def predicted_boundary(without: LinearResponse, rival: LinearResponse, along: Errors) -> float:
    """How many times the errors `along` until `without` has the smaller scaled error.

    0 if it has it without any error; infinite if no error of this kind gives it that.
    From cos_q²(1 + s²N_J) = cos_J²(1 + s²N_q), N the noise of `along`.
    """
    gap = rival.aligned - without.aligned
    if gap <= 0:
        return 0.0
    gain = without.aligned * rival.noise(along) - rival.aligned * without.noise(along)
    return float(np.sqrt(gap / gain)) if gain > 0 else float("inf")


def measured_boundary(factors: Sequence[float], log_ratio: Sequence[float]) -> float:
    """The same from log(error of qgf/error of the rival) at ascending `factors`, 0 the first.

    The first crossing from above to below 0, interpolated in log(factor); 0 if the ratio is below 0
    at the start, infinite if it never gets there. Between 0 and the first positive factor there is
    nothing to interpolate, and that factor is returned.
    """
    if log_ratio[0] < 0:
        return 0.0
    pairs = list(zip(factors, log_ratio, strict=True))
    for (f0, r0), (f1, r1) in pairwise(pairs):
        if r1 < 0:
            share = r0 / (r0 - r1)
            return f1 if f0 == 0 else float(f0 * (f1 / f0) ** share)
    return float("inf")
