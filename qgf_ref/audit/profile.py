"""Audit, parts (b) and (c): what the estimators do on this checkpoint, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import departure_from_gradient_field, typical_curl
from qgf_ref.audit.chain import ChainGradients, Progress
from qgf_ref.audit.cost import milliseconds, products
from qgf_ref.audit.final_values import FinalValues
from qgf_ref.audit.on_engine import (
    REFERENCE,
    for_each,
    gradient_at,
    gradients_at,
    gradients_of,
    one_batch,
    ours,
    program_of,
    remembering,
)
from qgf_ref.backends.engine import Engine
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.none import NoGuidance
from qgf_ref.guidance.qgf_jacobian_ortho import one_step_jacobian
from qgf_ref.guidance.queries import one_step_estimate
from qgf_ref.ops.clip import outside
from qgf_ref.oracles import remarks
from qgf_ref.threads import results_of

NOISE_LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


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


def profile(
    flow: GuidedFlow,
    chain: ChainGradients,
    estimators: list[Estimator],
    progress: Progress = lambda _: None,
    engine: Engine = REFERENCE,
    final: FinalValues | None = None,
) -> Profile:
    """Profile `estimators` on the chain of their gradients.

    The chain, the gradients on it and their time are the reference's; what only repeats them at
    other states (noise, curl by central differences, final Q, singular values) runs on `engine`.
    final  of the same flow, chain and engine; what else runs on the reference is in its threads
    """
    final = final or FinalValues(flow, chain, engine)
    guided = [e for e in estimators if e.name != "none"]
    states, gradients, middle = chain.states, chain.gradients, flow.denoise_steps // 2
    per_call, per_chain = {}, {}
    for e in estimators:
        per_call[e.label], per_chain[e.label] = products(e, flow, states)
    offsets = np.multiply.outer(NOISE_LEVELS, chain.epsilon)
    moved = _gradients_around(guided, flow, states, offsets, engine, progress)
    noise_cosine = {n: [_mean(cosine(g, near)) for near in moved[n]] for n, g in gradients.items()}
    curls = _curls(guided, flow, _rows(states[middle], 16), progress, engine, final.threads)
    medians = {label: typical_curl(curl) for label, (curl, _) in curls.items()}
    progress("(b) singular values of the Jacobian")
    singular, clipped = _one_step_estimates(flow, states, engine, final.threads)
    return Profile(
        rows=len(chain.noise),
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
        departure={n: m if m is not None and np.isfinite(m) else None for n, m in medians.items()},
        products=per_call,
        chain_products=per_chain,
        milliseconds=milliseconds(guided, flow, states[middle]),
        q=_final_q(guided, final, progress),
        remarks={label: said for label, (_, said) in curls.items() if said},
        curled={label: median is not None for label, median in medians.items()},
    )


def _curls(
    guided: list[Estimator],
    flow: GuidedFlow,
    step: DenoisingStep,
    progress: Progress,
    engine: Engine,
    threads: int,
) -> dict[str, tuple[Array, list[str]]]:
    """Of each, by label: the departure from a gradient field (B,), and what was said of it."""

    known = remembering(flow)  # at the same complex a_t most ask for the same v and ∇Q

    def curl(e: Estimator) -> tuple[Array, list[str]]:
        progress(f"(b) curl of {e.label}")
        place = known if e.analytic and ours(e) else flow
        with remarks() as said:
            each = departure_from_gradient_field(e, place, step, engine)
        return each, [remark.text for remark in said]

    # complex steps are the reference's; the engine has threads of its own
    found = for_each([e for e in guided if e.analytic], curl, threads)
    return {e.label: found[e.label] if e.label in found else curl(e) for e in guided}


def _one_step_estimates(
    flow: GuidedFlow, states: list[DenoisingStep], engine: Engine, threads: int
) -> tuple[list[list[float]], list[float]]:
    """Of every step: J₀'s median singular values, and the share of clipped coordinates."""
    unbounded = replace(flow, action_bound=None)

    def of_step(k: int) -> tuple[list[float], float | None]:
        def chain(flow: GuidedFlow, obs: Array, action: Array, weight: float | Array) -> Any:
            step = denoising_step(flow, obs, action, k, weight)
            query = one_step_estimate(flow, step)
            return query.x, one_step_jacobian(flow, step, query)

        obs, action = states[k].obs, states[k].action
        x, J = engine.run(unbounded, chain, ("J", k), NoGuidance(), obs, action, 0.0)
        values = np.median(np.linalg.svd(J, compute_uv=False), axis=0).tolist()
        return values, None if flow.bound is None else float(outside(x, flow.bound).mean())

    # not a program (the columns' unit vectors are none of its instructions): layer by layer, in
    # the thread that asks
    found = results_of([partial(of_step, k) for k in range(len(states))], threads)
    return [values for values, _ in found], [share for _, share in found if share is not None]


def _final_q(
    guided: list[Estimator], final: FinalValues, progress: Progress
) -> dict[str, list[tuple[float, float]]]:
    result = {}
    for e in guided:
        progress(f"(c) final Q of {e.label}")
        q = final.of(e, WEIGHTS)
        error = q.std(axis=1, ddof=1) / np.sqrt(q.shape[1])
        result[e.label] = list(zip(q.mean(axis=1).tolist(), error.tolist(), strict=True))
    return result


def _gradients_around(
    guided: list[Estimator],
    flow: GuidedFlow,
    states: Sequence[DenoisingStep],
    offsets: Array,
    engine: Engine,
    progress: Progress,
) -> dict[str, Array]:
    """By label, `gradients_near` for each of several offsets (N, T, B, D): (N, T, B, D)."""
    near = [[s.action + offset for offset in offsets[:, k]] for k, s in enumerate(states)]
    shared = program_of(guided, flow, engine)
    for e in shared:
        progress(f"(b) noise sensitivity of {e.label}, in one program")
    found = dict[str, Array]()
    if shared:
        each = [
            gradients_of(shared, flow, s, actions, engine)
            for s, actions in zip(states, near, strict=True)
        ]
        found = {e.label: np.stack(g, axis=1) for e, g in zip(shared, zip(*each), strict=True)}
    for e in guided:
        if e.label in found:
            continue
        progress(f"(b) noise sensitivity of {e.label}")
        if one_batch(e, engine):
            pairs = zip(states, near, strict=True)
            answers = [gradients_at(e, flow, s, actions, engine) for s, actions in pairs]
            found[e.label] = np.stack(answers, axis=1)
        else:
            each_offset = [gradients_near(e, flow, states, offset, engine) for offset in offsets]
            found[e.label] = np.stack(each_offset)
    return found


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
