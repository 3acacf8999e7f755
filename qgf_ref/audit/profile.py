"""Audit, parts (b) and (c): what the estimators do on this checkpoint, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import (
    REFERENCE,
    departure_from_gradient_field,
    gradient_at,
    own,
    typical_curl,
)
from qgf_ref.audit.cost import milliseconds, products
from qgf_ref.backends.engine import Engine
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.none import NoGuidance
from qgf_ref.guidance.qgf_jacobian_ortho import one_step_jacobian
from qgf_ref.guidance.queries import critic_value, one_step_estimate
from qgf_ref.guidance.registry import FunctionEstimator
from qgf_ref.ops.clip import outside
from qgf_ref.oracles import remarks
from qgf_ref.sampling import sample, trace

NOISE_LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STATE_WEIGHT = 0.1
"""For estimators whose G depends on the weight."""
WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Profile:
    """Measurements over the states of the behaviour-cloning chain, by estimator.

    norm (T,): median ‖G‖ over rows, at each step; clipped (T,): share of coordinates of the
    one-step estimate outside the bound; singular (T, D): median singular values of
    J₀ = I + (1 − t)∂v/∂a_t, descending; cosine: mean cosine between two estimators over steps and
    rows (None where every gradient of one is zero); noise_cosine: mean cosine between G(a_t) and
    G(a_t + σε), per σ of NOISE_LEVELS;
    departure (None: infinite, or undefined): median ‖A − Aᵀ‖/‖A + Aᵀ‖ at the middle step over the
    rows where A = ∂G/∂a_t is not zero, undefined where these are fewer than half; curled: whether
    it is defined;
    products: of one call at the middle step, and chain_products of all its calls, the sampler's own
    forwards of v not counted; milliseconds: of one call;
    q: mean and standard error of the critic at the final action, per weight of WEIGHTS;
    remarks: what was found of estimators that say they are analytic and are not.
    """

    rows: int
    times: tuple[float, ...]
    norm: dict[str, list[float]]
    clipped: list[float]
    singular: list[list[float]]
    cosine: dict[str, dict[str, float | None]]
    noise_cosine: dict[str, list[float | None]]
    departure: dict[str, float | None]
    products: dict[str, str]
    chain_products: dict[str, str]
    milliseconds: dict[str, float]
    q: dict[str, list[tuple[float, float]]]
    weights: tuple[float, ...] = WEIGHTS
    noise_levels: tuple[float, ...] = NOISE_LEVELS
    remarks: dict[str, list[str]] = field(default_factory=dict)
    curled: dict[str, bool] = field(default_factory=dict)


NO_PROFILE = Profile(0, (), {}, [], [], {}, {}, {}, {}, {}, {}, {})
"""Of an agent without a flow."""


def profile_stages(estimators: list[Estimator]) -> int:
    """How many times `profile` reports progress."""
    return 4 * sum(e.name != "none" for e in estimators) + 1


def cosine(x: Array, y: Array) -> Array:
    """Cosine of the angle between corresponding rows of x and y (…, D); NaN where one is zero."""
    dot = (x * y).sum(axis=-1)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return np.divide(dot, norms, out=np.full(dot.shape, np.nan), where=norms > 0)


def _mean(x: Array) -> float | None:
    """The mean of the defined cosines, or None where none is defined."""
    finite = x[np.isfinite(x)]
    return float(finite.mean()) if finite.size else None


@dataclass(frozen=True)
class ChainGradients:
    """What is measured on: the chain without guidance of obs (B, O), and every estimator's G there.

    noise (B, D); states: its T steps; epsilon (T, B, D): where a_t is moved to; gradients (T, B,
    D), by label
    """

    noise: Array
    states: list[DenoisingStep]
    epsilon: Array
    gradients: dict[str, Array]

    @classmethod
    def of(
        cls,
        flow: GuidedFlow,
        obs: Array,
        estimators: list[Estimator],
        seed: int,
        progress: Progress = lambda _: None,
    ) -> ChainGradients:
        """By the reference. Deterministic in `seed`."""
        rng = np.random.default_rng((seed, 1))
        noise = rng.standard_normal((len(obs), flow.field.action_dim))
        chain = trace(flow, obs, estimator="none", noise=noise)
        states = [
            denoising_step(flow, chain.obs, a, k, STATE_WEIGHT) for k, a in enumerate(chain.a)
        ]
        gradients = {}
        for e in estimators:
            progress(f"(b) gradients of {e.label}")
            gradients[e.label] = np.stack([e(flow, step).gradient for step in states])
        return cls(noise, states, rng.standard_normal(chain.a.shape), gradients)


def profile(
    flow: GuidedFlow,
    chain: ChainGradients,
    estimators: list[Estimator],
    progress: Progress = lambda _: None,
    engine: Engine = REFERENCE,
) -> Profile:
    """Profile `estimators` on the chain of their gradients.

    The chain, the gradients on it and their time are the reference's; what only repeats them at
    other states (noise, curl by central differences, final Q, singular values) runs on `engine`.
    """
    guided = [e for e in estimators if e.name != "none"]
    states, gradients, middle = chain.states, chain.gradients, flow.denoise_steps // 2
    obs = states[0].obs
    per_call, per_chain = {}, {}
    for e in estimators:
        per_call[e.label], per_chain[e.label] = products(e, flow, states)
    noise_cosine = {}
    for e in guided:
        progress(f"(b) noise sensitivity of {e.label}")
        offsets = np.multiply.outer(NOISE_LEVELS, chain.epsilon)
        moved = _gradients_around(e, flow, states, offsets, engine)
        noise_cosine[e.label] = [_mean(cosine(gradients[e.label], near)) for near in moved]
    departure, curled, remarked = {}, dict[str, bool](), dict[str, list[str]]()
    few = _rows(states[middle], 16)
    for e in guided:
        progress(f"(b) curl of {e.label}")
        with remarks() as said:
            curl = departure_from_gradient_field(e, flow, few, engine)
        if said:
            remarked[e.label] = [remark.text for remark in said]
        median = typical_curl(curl)
        curled[e.label] = median is not None
        departure[e.label] = median if median is not None and np.isfinite(median) else None
    progress("(b) singular values of the Jacobian")
    singular, clipped = _one_step_estimates(flow, states, engine)
    return Profile(
        rows=len(obs),
        times=flow.times,
        norm={
            n: np.median(np.linalg.norm(g, axis=-1), axis=1).tolist() for n, g in gradients.items()
        },
        clipped=clipped,
        singular=singular,
        cosine={
            n: {m: _mean(cosine(g, h)) for m, h in gradients.items()} for n, g in gradients.items()
        },
        noise_cosine=noise_cosine,
        departure=departure,
        products=per_call,
        chain_products=per_chain,
        milliseconds=milliseconds(guided, flow, states[middle]),
        q=_final_q(flow, obs, chain.noise, guided, progress, engine),
        remarks=remarked,
        curled=curled,
    )


def _one_step_estimates(
    flow: GuidedFlow, states: list[DenoisingStep], engine: Engine
) -> tuple[list[list[float]], list[float]]:
    """Of every step: J₀'s median singular values, and the share of clipped coordinates."""
    unbounded, singular, clipped = replace(flow, action_bound=None), [], []

    def chain(flow: GuidedFlow, obs: Array, action: Array, weight: float | Array) -> Any:
        step = denoising_step(flow, obs, action, k, weight)
        query = one_step_estimate(flow, step)
        return query.x, one_step_jacobian(flow, step, query)

    for k, step in enumerate(states):
        x, J = engine.run(unbounded, chain, ("J", k), NoGuidance(), step.obs, step.action, 0.0)
        if flow.bound is not None:
            clipped.append(float(outside(x, flow.bound).mean()))
        singular.append(np.median(np.linalg.svd(J, compute_uv=False), axis=0).tolist())
    return singular, clipped


def _final_q(
    flow: GuidedFlow,
    obs: Array,
    noise: Array,
    guided: list[Estimator],
    progress: Progress,
    engine: Engine,
) -> dict[str, list[tuple[float, float]]]:
    result = {}
    for e in guided:
        progress(f"(c) final Q of {e.label}")
        q = np.stack(
            [
                critic_value(flow, obs, action)
                for action in _final_actions(e, flow, obs, noise, engine)
            ]
        )
        error = q.std(axis=1, ddof=1) / np.sqrt(len(obs))
        result[e.label] = list(zip(q.mean(axis=1).tolist(), error.tolist(), strict=True))
    return result


def _one_batch(e: Estimator, engine: Engine) -> bool:
    """Whether rows of several measurements may share one call, which compiled code does faster.

    Of the registered estimators: that a row does not depend on its batch is in their contract. A
    user's function might have rows that do.
    """
    fast = own(e, engine).backend is not REFERENCE.backend
    return fast and not isinstance(e, FunctionEstimator)


def _final_actions(
    e: Estimator, flow: GuidedFlow, obs: Array, noise: Array, engine: Engine
) -> list[Array]:
    """The sampled actions (B, D) of each of WEIGHTS."""
    if not _one_batch(e, engine):
        runner = own(e, engine)
        return [
            sample(flow, obs, estimator=e, weight=weight, noise=noise, backend=runner)
            for weight in WEIGHTS
        ]
    many, B = len(WEIGHTS), len(obs)
    all_obs, all_noise = np.tile(obs, (many, 1)), np.tile(noise, (many, 1))
    weights = np.repeat(WEIGHTS, B)
    action = sample(flow, all_obs, estimator=e, weight=weights, noise=all_noise, backend=engine)
    return list(action.reshape(many, B, -1))


def _gradients_around(
    e: Estimator,
    flow: GuidedFlow,
    states: Sequence[DenoisingStep],
    offsets: Array,
    engine: Engine,
) -> list[Array]:
    """`gradients_near` for each of several offsets (N, T, B, D)."""
    if not _one_batch(e, engine):
        return [gradients_near(e, flow, states, offset, engine) for offset in offsets]
    many = len(offsets)
    tiled = [
        replace(step, obs=np.tile(step.obs, (many, 1)), action=np.tile(step.action, (many, 1)))
        for step in states
    ]
    T, B, D = offsets.shape[1:]
    each = offsets.transpose(1, 0, 2, 3).reshape(T, many * B, D)
    return list(gradients_near(e, flow, tiled, each, engine).reshape(T, many, B, D).swapaxes(0, 1))


def gradients_near(
    e: Estimator,
    flow: GuidedFlow,
    states: Sequence[DenoisingStep],
    offsets: Array,
    engine: Engine = REFERENCE,
) -> Array:
    """G(s, a_t + offset) of every step and row, (T, B, D). offsets (T, B, D), one a step."""
    return np.stack(
        [
            gradient_at(e, flow, s.index, s.obs, s.action + offset, s.weight, engine)
            for s, offset in zip(states, offsets, strict=True)
        ]
    )


def _rows(step: DenoisingStep, rows: int) -> DenoisingStep:
    # the velocity's cache is not sliced: callers recompute the velocity with `at_action`
    return replace(step, obs=step.obs[:rows], action=step.action[:rows])
