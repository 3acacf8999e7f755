"""`sample` on backend numba: the recorded program where there is one, else layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.choice import kernels_named
from qgf_ref.backends.numba.sampler import compiled_sampler
from qgf_ref.backends.program.record import NotRecordable
from qgf_ref.denoising import GradientSteps, candidates, chosen, conclude, denoise
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.scheme import ALGORITHM_1
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.velocity import MLPVelocity


def accelerated(
    flow: GuidedFlow,
    obs: Array,
    noise: Array,
    estimator: Estimator,
    weight: float | Array,
    best_of: int,
    gradient_steps: GradientSteps | None,
    threads: int,
) -> Array:
    """The actions (B, D). obs (B, O), noise (B·n, D), weight () or (B·n, 1), all checked.

    Raises InputError on a flow without networks, NonFiniteError as `qgf_ref.sampling.sample`.
    """
    ranked = best_of > 1

    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: float | Array) -> Any:
        last = denoise(flow, obs, noise, estimator, weight)
        action, q = candidates(flow, obs, last, ranked, gradient_steps)
        return (action,) if q is None else (action, q)

    learned = isinstance(flow.field, MLPVelocity)
    if not learned or not isinstance(flow.critic, MLPCritic):
        raise InputError(
            f"backend numba runs networks; this flow has a {type(flow.field).__name__} and a "
            f"{type(flow.critic).__name__}: use backend numpy"
        )
    try:
        if not estimator.recordable:
            raise NotRecordable(f"the estimator {estimator.label}")
        program = compiled_sampler(flow, chain, (estimator, ranked, gradient_steps))
    except NotRecordable:
        flow = estimator.on(_layer_by_layer(flow))
    else:
        result = program(obs, noise, weight, threads)
        if result is not None:
            action, q = result
            return action if q is None else chosen(action, q, best_of, ALGORITHM_1)
        # run once more as the reference, which says what left the finite numbers, and when
    obs = ALGORITHM_1.spread(obs, best_of)
    last = denoise(flow, obs, noise, estimator, weight)
    return conclude(flow, obs, last, best_of, gradient_steps)


N = TypeVar("N")


def _layer_by_layer(flow: GuidedFlow) -> GuidedFlow:
    """The flow whose networks run in compiled kernels, one layer after another.

    Or the flow itself, if its parameters are not finite: the reference says best what is wrong.
    """
    field: Any = flow.field
    critic: Any = flow.critic
    if not all(
        np.isfinite(a).all() for params in (field.params, critic.params) for a in params.arrays()
    ):
        return flow
    kernels = kernels_named("numba", field.dtype)

    def compiled(network: N) -> N:
        return replace(network, kernels=kernels)  # type: ignore[type-var]

    return replace(
        flow,
        field=compiled(field),
        critic=compiled(critic),
        kernels=kernels,
        auxiliary=flow.auxiliary.map(compiled, compiled),
    )
