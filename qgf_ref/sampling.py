"""The public samplers: arguments checked, noise drawn, then the loop of `qgf_ref.denoising`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array, follows_numpy, integer, matrix
from qgf_ref.backends.engine import Engine, EngineLike
from qgf_ref.denoising import (
    GradientSteps,
    candidates,
    chosen,
    conclude,
    denoise,
    finite,
)
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, require_flow
from qgf_ref.guidance.queries import members_at, one_step_estimate
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.guidance.scheme import ALGORITHM_1, Scheme

Arrays = tuple[Array, ...]


@dataclass(frozen=True)
class Trace:
    """Every quantity of a sampling run, by step.

    obs (B, O), noise a_0 (B, D), action (B, D): the result, clipped.
    a (T, B, D): before each step; v (T, B, D): velocity; a1_hat (T, B, D): the query point (the
    one-step estimate where the estimator has none); q (T, E, B): every critic member there, E = 0
    of a flow without a critic;
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

    def __repr__(self) -> str:
        (T, B, D), E = self.a.shape, self.q.shape[1]
        return f"Trace({B} rows, T={T}, D={D}, {E} critics, {self.a.dtype})"

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
    backend: EngineLike = "numpy",
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
              code (`qgf_ref.backends`), equal to rounding; or "cupy", the same on a GPU, where obs,
              noise and weight may be CuPy's or any library's with DLPack, and the result is of
              obs's; or "cupy:tf32", which rounds its products to TF32; or an `Engine`. An estimator
              that cannot be recorded (`Estimator.recordable`) runs layer by layer in compiled
              kernels. Networks are packed at their first use: their arrays must not be changed in
              place afterwards
    threads   of backend "numba": default QGF_REF_THREADS, else the cores of this process. The
              result's bits do not depend on it

    returns   (B, D), within the flow's action bound, in the field's dtype, to which obs, noise
              and weight are cast
    Raises InputError on malformed arguments, NonFiniteError naming step and quantity when the
    chain leaves the finite numbers.
    """
    flow = _with_steps(flow, denoise_steps)
    engine, asked = Engine.of(backend, threads), obs
    obs, noise, weight = (engine.taken(x) for x in (obs, noise, weight))
    single = (isinstance(obs, np.ndarray) or follows_numpy(obs)) and obs.ndim == 1
    obs = _observations(flow, obs[None] if single else obs)
    draws = integer(best_of)
    if draws is None or draws < 1:
        raise InputError(f"best_of must be an integer ≥ 1, got {best_of!r}")
    if gradient_steps is not None and not isinstance(gradient_steps, GradientSteps):
        raise InputError(f"gradient_steps must be a GradientSteps, got {gradient_steps!r}")
    start = engine.beside(obs, _initial_noise(flow, len(obs) * draws, noise, rng))
    guide = estimator_by_name(estimator)
    flow = _without_graphs(guide.on(flow), guide)
    weights = _weights(weight, guide, len(obs), draws, start.dtype)

    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: float | Array) -> Arrays:
        last = denoise(flow, obs, noise, guide, weight, scheme=scheme)
        ends, q = candidates(flow, obs, last, draws > 1, gradient_steps, scheme)
        return (ends,) if q is None else (ends, q)

    key = guide, draws > 1, gradient_steps
    action, *q = engine.run(flow, chain, key, guide, obs, start, weights, scheme)
    action = chosen(flow, action, q[0], draws, scheme) if q else action
    action = scheme.deliver(action)
    return engine.given(action[0] if single else action, asked)


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
    backend: EngineLike = "numpy",
    threads: int | None = None,
) -> Trace:
    """`sample` for obs (B, O) with every intermediate quantity. Arguments as there."""
    flow, engine = _with_steps(flow, denoise_steps), Engine.of(backend, threads)
    obs, noise, weight = (engine.taken(x) for x in (obs, noise, weight))
    obs = _observations(flow, obs)
    start = engine.beside(obs, _initial_noise(flow, len(obs), noise, rng))
    guide = estimator_by_name(estimator)
    flow = _without_graphs(guide.on(flow), guide)
    weights = _weights(weight, guide, len(obs), 1, start.dtype)

    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: float | Array) -> Arrays:
        rows: list[Array] = []

        def record(step: DenoisingStep, guidance: Guidance) -> None:
            query, q = guidance.query, guidance.q
            if query is None:
                query = one_step_estimate(flow, step).x
            if q is None:
                q = members_at(flow, obs, query)
            finite(q, step.index, "the critic at the query point")
            rows.extend((step.action, step.velocity, query, q, guidance.gradient))

        last = denoise(flow, obs, noise, guide, weight, record, scheme)
        return conclude(flow, obs, last, scheme=scheme), *rows

    action, *rows = engine.run(flow, chain, (guide, "trace"), guide, obs, start, weights, scheme)
    a, v, a1_hat, q, g = (np.stack(rows[first::5]) for first in range(5))
    return Trace(obs, start, action, a, v, a1_hat, q, g)


def _with_steps(flow: GuidedFlow, denoise_steps: int | None) -> GuidedFlow:
    require_flow(flow)
    if denoise_steps is None:
        return flow
    again = getattr(flow.field, "for_steps", None)
    field = flow.field if again is None else again(denoise_steps)
    return replace(flow, field=field, denoise_steps=denoise_steps)


def _without_graphs(flow: GuidedFlow, guide: Estimator) -> GuidedFlow:
    """The flow, its field not keeping what products need where this estimator asks for no vjp."""
    lean = getattr(flow.field, "forward_only", None)
    if lean is None:
        return flow
    asked = [guide.products(flow, k) for k in range(flow.denoise_steps)]
    if any(products is None or products.field_vjp for products in asked):
        return flow
    field = lean()
    return flow if field is flow.field else replace(flow, field=field)


def _observations(flow: GuidedFlow, obs: Array) -> Array:
    columns = flow.field.obs_dim
    if columns is None:
        known = isinstance(obs, np.ndarray) or follows_numpy(obs)
        columns = obs.shape[-1] if known and obs.ndim else 0
    return matrix(obs, "obs", columns=columns, dtype=flow.field.dtype)


def _initial_noise(
    flow: GuidedFlow, rows: int, noise: Array | None, rng: np.random.Generator | int | None
) -> Array:
    D = flow.field.action_dim
    if (noise is None) == (rng is None):
        raise InputError("give either noise (B·best_of, D) or rng (a Generator or a seed)")
    if noise is None:
        try:
            generator = np.random.default_rng(rng)
        except (TypeError, ValueError):
            raise InputError(f"rng must be a numpy Generator or a seed ≥ 0, got {rng!r}") from None
        noise = generator.standard_normal((rows, D))
    noise = matrix(noise, "noise", columns=D, dtype=flow.field.dtype)
    if len(noise) != rows:
        raise InputError(f"noise must have {rows} rows (B·best_of), got {len(noise)}")
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
    if type(weight) is float and 0 <= weight < np.inf:
        return weight
    expected = f"weight must be a finite number ≥ 0, or an array of them of shape ({rows},)"
    try:
        w: Any = weight if follows_numpy(weight) else np.asarray(weight)
    except ValueError:
        raise InputError(f"{expected}, got rows of unequal length") from None
    if w.dtype.kind not in "fiu" or w.shape not in ((), (rows,)):
        raise InputError(f"{expected}, got {w.dtype} of shape {w.shape}")
    with np.errstate(over="ignore"):
        w = w.astype(np.float64 if w.ndim == 0 else dtype)
    if not (np.isfinite(w) & (w >= 0)).all():
        raise InputError(f"{expected}, got {w.ravel()[~(np.isfinite(w) & (w >= 0)).ravel()][0]}")
    return float(w) if w.ndim == 0 else np.repeat(w, repeats)[:, None]
