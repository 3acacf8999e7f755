"""The only denoising loop, and what follows it: clip, gradient steps, best-of-N.

    for k = 0 … T−1:  a ← a + (v(s, a, k/T) + w·G(s, a, k/T))/T
    return clip(a)

Source: method.md, section 2 (Algorithm 1); official.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array, integer, require_finite
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.flow.euler import integrate
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.scheme import ALGORITHM_1, Scheme
from qgf_ref.ops.structure import axpy

Observer = Callable[[DenoisingStep, Guidance], None]


@dataclass(frozen=True)
class GradientSteps:
    """GradStep: after sampling, `steps` times a ← clip(a + size·∇Q(s, a)).

    sign  step along the sign of the gradient instead
    Source: method.md, section 4. Raises InputError unless steps is an integer ≥ 0 and size finite.
    """

    steps: int = 3
    size: float = 0.01
    sign: bool = False

    def __post_init__(self) -> None:
        if integer(self.steps) is None or self.steps < 0:
            raise InputError(f"the number of gradient steps must be ≥ 0, got {self.steps!r}")
        if not isinstance(self.size, float | int | np.floating) or not np.isfinite(self.size):
            raise InputError(f"the size of a gradient step must be finite, got {self.size!r}")


def denoising_step(
    flow: GuidedFlow, obs: Array, action: Array, index: int, weight: float | Array = 0.0
) -> DenoisingStep:
    """The state that an estimator sees at step `index` with a_t = action (B, D)."""
    time = flow.times[index]
    velocity, cache = flow.field.forward(obs, action, time)
    return DenoisingStep(obs, action, index, time, velocity, cache, weight)


def denoise(
    flow: GuidedFlow,
    obs: Array,
    noise: Array,
    estimator: Estimator,
    weight: float | Array,
    observe: Observer | None = None,
    scheme: Scheme = ALGORITHM_1,
) -> Array:
    """The loop: a_1 (B, D) before its clip, from noise (B, D). weight () or (B, 1).

    observe is called at every step with what the estimator saw and answered. Raises InputError on
    an estimator's malformed answer, NonFiniteError as `sample` does.
    """

    def guided(k: int, time: float, action: Array) -> Array:
        finite(action, k, "the action a_t")
        step = denoising_step(flow, obs, action, k, weight)
        finite(step.velocity, k, "the velocity v")
        guidance = estimator(flow, step)
        if not isinstance(guidance, Guidance) or np.shape(guidance.gradient) != action.shape:
            raise InputError(
                f"estimator {estimator.label} must return a Guidance whose gradient has a_t's "
                f"shape, {action.shape}"
            )
        finite(guidance.gradient, k, f"the gradient G of {estimator.label}")
        if observe is not None:
            observe(step, guidance)
        if guidance.acceleration is not None:
            if np.shape(guidance.acceleration) != action.shape:
                raise InputError(
                    f"the acceleration of estimator {estimator.label} must have a_t's shape, "
                    f"{action.shape}"
                )
            finite(guidance.acceleration, k, f"the acceleration of {estimator.label}")
        return drift_of(flow, step, guidance, scheme)

    action = scheme.start(noise)
    # overflow on the way is reported below, with its step, rather than as a bare warning
    with np.errstate(over="ignore", invalid="ignore"):
        for state in integrate(guided, action, flow.times, kernels=flow.kernels):
            action = state
    finite(action, flow.denoise_steps, "the action a_1")
    return action


def drift_of(
    flow: GuidedFlow, step: DenoisingStep, guidance: Guidance, scheme: Scheme = ALGORITHM_1
) -> Array:
    """What the Euler step multiplies by 1/T: v + w·G, and ½(1/T)·acceleration if there is one."""
    drift = scheme.drift(flow, step, guidance.gradient)
    if guidance.acceleration is None:
        return drift
    return flow.kernels(axpy, 0.5 / flow.denoise_steps, guidance.acceleration, drift)


def conclude(
    flow: GuidedFlow,
    obs: Array,
    last: Array,
    best_of: int = 1,
    gradient_steps: GradientSteps | None = None,
    scheme: Scheme = ALGORITHM_1,
) -> Array:
    """What follows the loop: clip, gradient steps, best-of-N. obs (B·n, O), last (B·n, D) → (B, D).

    Raises NonFiniteError when a candidate's value is not finite.
    """
    action, q = candidates(flow, obs, last, best_of > 1, gradient_steps, scheme)
    if q is not None:
        action = chosen(flow, action, q, best_of, scheme)
    return scheme.deliver(action)


def candidates(
    flow: GuidedFlow,
    obs: Array,
    last: Array,
    ranked: bool,
    gradient_steps: GradientSteps | None = None,
    scheme: Scheme = ALGORITHM_1,
) -> tuple[Array, Array | None]:
    """Clip and gradient steps: (B·n, D), and if ranked what best-of-N ranks them by, (B·n,)."""
    action = scheme.finish(flow, last)
    if gradient_steps is not None:
        action = _climb(flow, obs, action, gradient_steps, scheme)
    return action, scheme.rank(flow, obs, last, action) if ranked else None


def chosen(flow: GuidedFlow, action: Array, q: Array, best_of: int, scheme: Scheme) -> Array:
    """Of each observation's candidates (B·n, D), the one that the scheme chooses by q (B·n,).

    Raises NonFiniteError when a candidate's value is not finite.
    """
    finite(q, flow.denoise_steps, "the critic of a candidate")
    best = scheme.choose(q.reshape(-1, best_of))
    return action[np.arange(len(best), like=best) * best_of + best]


def _climb(
    flow: GuidedFlow, obs: Array, action: Array, how: GradientSteps, scheme: Scheme
) -> Array:
    for n in range(how.steps):
        gradient = scheme.uphill(flow, obs, action)
        finite(gradient, flow.denoise_steps, f"∇Q of gradient step {n}")
        direction = np.sign(gradient) if how.sign else gradient
        action = scheme.confine(flow, flow.kernels(axpy, float(how.size), direction, action))
    return action


def finite(x: Array, step: int, quantity: str) -> None:
    """Raise NonFiniteError, naming step and quantity, if x holds NaN or infinity."""
    require_finite(x, f"{quantity} at denoising step {step}", NonFiniteError)
