"""The sampler: the only denoising loop, with guidance, best-of-N and gradient steps.

    a_0 ~ N(0, I)
    for k = 0 … T−1:  a ← a + (v(s, a, k/T) + w·G(s, a, k/T))/T
    return clip(a)

Source: method.md, section 2 (Algorithm 1); official.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from qgf_ref.arrays import Array, matrix, require_finite
from qgf_ref.errors import InputError, NonFiniteError, unknown_name
from qgf_ref.flow.euler import integrate
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.queries import bounded, critic_gradient, one_step_estimate
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.guidance.scheme import ALGORITHM_1, Scheme
from qgf_ref.kernels.threads import thread_count
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.ops.structure import axpy

Backend = Literal["numpy", "numba"]

BACKENDS: tuple[Backend, ...] = ("numpy", "numba")

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
        if _integer(self.steps) is None or self.steps < 0:
            raise InputError(f"the number of gradient steps must be ≥ 0, got {self.steps!r}")
        if not isinstance(self.size, float | int | np.floating) or not np.isfinite(self.size):
            raise InputError(f"the size of a gradient step must be finite, got {self.size!r}")


@dataclass(frozen=True)
class Trace:
    """Every quantity of a sampling run, by step.

    obs (B, O), noise a_0 (B, D), action (B, D): the result, clipped.
    a (T, B, D): before each step; v (T, B, D): velocity; a1_hat (T, B, D): the query point (the
    one-step estimate where the estimator has none); q (T, E, B): every critic member there;
    g (T, B, D): the estimator's output, before weighting.
    Source: shared/golden/README.md.
    """

    obs: Array
    noise: Array
    action: Array
    a: Array
    v: Array
    a1_hat: Array
    q: Array
    g: Array

    def arrays(self) -> dict[str, Array]:
        """All arrays by name, as an npz of the trace schema has them."""
        return dict(vars(self))


def sample(
    flow: GuidedFlow,
    obs: Array,
    *,
    estimator: EstimatorLike = "qgf",
    weight: float | Array | None = None,
    noise: Array | None = None,
    rng: np.random.Generator | int | None = None,
    best_of: int = 1,
    gradient_steps: GradientSteps | None = None,
    denoise_steps: int | None = None,
    scheme: Scheme = ALGORITHM_1,
    backend: Backend = "numpy",
    threads: int | None = None,
) -> Array:
    """Draw one action (chunk) for each observation.

    obs       (B, O), or (O,) for one, whose action comes back as (D,)
    estimator a name of `estimator_names()`, "package.module:function", an `Estimator`, or a plain
              function (flow, step) → G
    weight    w = 1/β ≥ 0 of the guidance: one number, or one for each observation (B,); only
              the estimator "none" does without
    noise     a_0, (B·best_of, D), observation-major; or
    rng       a numpy Generator or a seed, from which the noise is drawn as float64
    best_of   N: draw N actions for each observation, keep the one with the highest aggregated
              critic (the first among equals)
    gradient_steps  GradStep after the flow
    denoise_steps   T, instead of the flow's own
    scheme  how the pieces around the networks are made, for cross-checks
    backend  "numpy", the reference; or "numba": the same loop, recorded once and run as compiled
              code (`qgf_ref.compiled`), equal to rounding. An estimator that cannot be recorded
              (`Estimator.recordable`) runs layer by layer in compiled kernels
    threads   of backend "numba": default QGF_REF_THREADS, else the cores of this process. The
              result's bits do not depend on it

    returns   (B, D), within the flow's action bound, in the field's dtype, to which obs, noise
              and weight are cast
    Raises InputError on malformed arguments, NonFiniteError naming step and quantity when the
    chain leaves the finite numbers.
    """
    flow = _with_steps(flow, denoise_steps)
    single = isinstance(obs, np.ndarray) and obs.ndim == 1
    obs = _observations(flow, obs[None] if single else obs)
    draws = _integer(best_of)
    if draws is None or draws < 1:
        raise InputError(f"best_of must be an integer ≥ 1, got {best_of!r}")
    if gradient_steps is not None and not isinstance(gradient_steps, GradientSteps):
        raise InputError(f"gradient_steps must be a GradientSteps, got {gradient_steps!r}")
    repeated = scheme.spread(obs, draws)
    start = _initial_noise(flow, repeated, noise, rng)
    guide = estimator_by_name(estimator)
    weights = _weights(weight, guide, len(obs), draws, start.dtype)
    count = _backend(backend, threads, flow, scheme)
    if backend == "numba":
        action = _accelerated(flow, obs, start, guide, weights, draws, gradient_steps, count)
    else:
        last = denoise(flow, repeated, start, guide, weights, scheme=scheme)
        action = conclude(flow, repeated, last, draws, gradient_steps, scheme)
    return action[0] if single else action


def trace(
    flow: GuidedFlow,
    obs: Array,
    *,
    estimator: EstimatorLike = "qgf",
    weight: float | Array | None = None,
    noise: Array | None = None,
    rng: np.random.Generator | int | None = None,
    denoise_steps: int | None = None,
    scheme: Scheme = ALGORITHM_1,
) -> Trace:
    """`sample` for obs (B, O) with every intermediate quantity. Arguments as there."""
    flow = _with_steps(flow, denoise_steps)
    obs = _observations(flow, obs)
    start = _initial_noise(flow, obs, noise, rng)
    guide = estimator_by_name(estimator)
    weights = _weights(weight, guide, len(obs), 1, start.dtype)
    rows: list[tuple[Array, Array, Array, Array, Array]] = []

    def record(step: DenoisingStep, guidance: Guidance) -> None:
        query, q = guidance.query, guidance.q
        if query is None:
            query = one_step_estimate(flow, step).x
        if q is None:
            q, _ = flow.critic.forward(obs, query)
        _finite(q, step.index, "the critic at the query point")
        rows.append((step.action, step.velocity, query, q, guidance.gradient))

    last = denoise(flow, obs, start, guide, weights, record, scheme)
    action = conclude(flow, obs, last, scheme=scheme)
    a, v, a1_hat, q, g = (np.stack(parts) for parts in zip(*rows, strict=True))
    return Trace(obs, start, action, a, v, a1_hat, q, g)


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
        _finite(action, k, "the action a_t")
        step = denoising_step(flow, obs, action, k, weight)
        _finite(step.velocity, k, "the velocity v")
        guidance = estimator(flow, step)
        if not isinstance(guidance, Guidance) or np.shape(guidance.gradient) != action.shape:
            raise InputError(
                f"estimator {estimator.label} must return a Guidance whose gradient has a_t's "
                f"shape, {action.shape}"
            )
        _finite(guidance.gradient, k, f"the gradient G of {estimator.label}")
        if observe is not None:
            observe(step, guidance)
        return scheme.drift(flow, step, guidance.gradient)

    action = scheme.start(noise)
    # overflow on the way is reported below, with its step, rather than as a bare warning
    with np.errstate(over="ignore", invalid="ignore"):
        for state in integrate(guided, action, flow.times, kernels=flow.kernels):
            action = state
    _finite(action, flow.denoise_steps, "the action a_1")
    return action


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
        _finite(q, flow.denoise_steps, "the critic of a candidate")
        action = _chosen(action, q, best_of, scheme)
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
        action = _climb(flow, obs, action, gradient_steps)
    return action, scheme.rank(flow, obs, last, action) if ranked else None


def _chosen(action: Array, q: Array, best_of: int, scheme: Scheme) -> Array:
    chosen = scheme.choose(q.reshape(-1, best_of))
    return action[np.arange(len(chosen)) * best_of + chosen]


def _accelerated(
    flow: GuidedFlow,
    obs: Array,
    noise: Array,
    estimator: Estimator,
    weight: float | Array,
    best_of: int,
    gradient_steps: GradientSteps | None,
    threads: int,
) -> Array:
    """`sample` on backend "numba". obs (B, O), noise (B·n, D)."""
    # here, because it brings Numba, which the reference does without
    from qgf_ref.compiled.record import NotRecordable
    from qgf_ref.compiled.sampler import compiled_sampler

    ranked = best_of > 1

    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: float | Array) -> Any:
        last = denoise(flow, obs, noise, estimator, weight)
        action, q = candidates(flow, obs, last, ranked, gradient_steps)
        return (action,) if q is None else (action, q)

    if not isinstance(flow.field, MLPVelocity) or not isinstance(flow.critic, MLPCritic):
        raise InputError(
            f"backend numba runs networks; this flow has a {type(flow.field).__name__} and a "
            f"{type(flow.critic).__name__}: use backend numpy"
        )
    try:
        if not estimator.recordable:
            raise NotRecordable(f"the estimator {estimator.label}")
        program = compiled_sampler(flow, chain, (estimator, ranked, gradient_steps))
    except NotRecordable:
        flow = _layer_by_layer(flow)
    else:
        action, q = program(obs, noise, weight, threads)
        if np.isfinite(action).all() and (q is None or np.isfinite(q).all()):
            return action if q is None else _chosen(action, q, best_of, ALGORITHM_1)
        # run once more as the reference, which says what left the finite numbers, and when
    obs = ALGORITHM_1.spread(obs, best_of)
    last = denoise(flow, obs, noise, estimator, weight)
    return conclude(flow, obs, last, best_of, gradient_steps)


def _backend(name: str, threads: int | None, flow: GuidedFlow, scheme: Scheme) -> int:
    """The number of threads, if the arguments fit each other."""
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if name == "numpy":
        if threads is not None:
            raise InputError(
                "threads is for backend numba; NumPy's own are set with threadpoolctl or "
                "OPENBLAS_NUM_THREADS"
            )
        return 1
    if scheme is not ALGORITHM_1 or flow.kernels is not reference_kernels:
        raise InputError("backend numba runs Algorithm 1 with the reference kernels only")
    return thread_count(threads)


def _climb(flow: GuidedFlow, obs: Array, action: Array, how: GradientSteps) -> Array:
    for n in range(how.steps):
        gradient = critic_gradient(flow, obs, action).gradient
        _finite(gradient, flow.denoise_steps, f"∇Q of gradient step {n}")
        direction = np.sign(gradient) if how.sign else gradient
        action = bounded(flow, flow.kernels(axpy, float(how.size), direction, action)).x
    return action


def _finite(x: Array, step: int, quantity: str) -> None:
    require_finite(x, f"{quantity} at denoising step {step}", NonFiniteError)


def _integer(value: Any) -> int | None:
    """`value` as an int if it is an integer of Python or NumPy, else None."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return None
    return int(value)


def _with_steps(flow: GuidedFlow, denoise_steps: int | None) -> GuidedFlow:
    if not isinstance(flow, GuidedFlow):
        raise InputError(
            f"the first argument must be a GuidedFlow, got {type(flow).__name__}; "
            "of a checkpoint, pass checkpoint.flow"
        )
    if denoise_steps is None:
        return flow
    return replace(flow, denoise_steps=denoise_steps)


def _observations(flow: GuidedFlow, obs: Array) -> Array:
    columns = flow.field.obs_dim
    if columns is None:
        columns = obs.shape[-1] if isinstance(obs, np.ndarray) and obs.ndim else 0
    return matrix(obs, "obs", columns=columns, dtype=flow.field.dtype)


def _initial_noise(
    flow: GuidedFlow, obs: Array, noise: Array | None, rng: np.random.Generator | int | None
) -> Array:
    D = flow.field.action_dim
    if (noise is None) == (rng is None):
        raise InputError("give either noise (B·best_of, D) or rng (a Generator or a seed)")
    if noise is None:
        try:
            generator = np.random.default_rng(rng)
        except (TypeError, ValueError):
            raise InputError(f"rng must be a numpy Generator or a seed ≥ 0, got {rng!r}") from None
        noise = generator.standard_normal((len(obs), D))
    noise = matrix(noise, "noise", columns=D, dtype=flow.field.dtype)
    if len(noise) != len(obs):
        raise InputError(f"noise must have {len(obs)} rows (B·best_of), got {len(noise)}")
    return noise


def _weights(
    weight: float | Array | None,
    guide: Estimator,
    rows: int,
    repeats: int,
    dtype: np.dtype[Any],
) -> float | Array:
    if weight is None:
        if guide.name != "none":
            raise InputError(f"the estimator {guide.label} needs a guidance weight: give weight=…")
        return 0.0
    expected = f"weight must be a finite number ≥ 0, or an array of them of shape ({rows},)"
    try:
        w = np.asarray(weight)
    except ValueError:
        raise InputError(f"{expected}, got rows of unequal length") from None
    if w.dtype.kind not in "fiu" or w.shape not in ((), (rows,)):
        raise InputError(f"{expected}, got {w.dtype} of shape {w.shape}")
    with np.errstate(over="ignore"):
        w = w.astype(np.float64 if w.ndim == 0 else dtype)
    if not (np.isfinite(w) & (w >= 0)).all():
        raise InputError(f"{expected}, got {w.ravel()[~(np.isfinite(w) & (w >= 0)).ravel()][0]}")
    return float(w) if w.ndim == 0 else np.repeat(w, repeats)[:, None]


def _layer_by_layer(flow: GuidedFlow) -> GuidedFlow:
    """The flow whose networks run in compiled kernels, one layer after another."""
    return flow
