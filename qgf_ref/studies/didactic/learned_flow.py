"""A velocity network trained on samples of a Gaussian mixture, beside its exact velocity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from qgf_ref.errors import InputError
from qgf_ref.flow.gaussian_mixture import GaussianMixture
from qgf_ref.losses.flow_matching import flow_matching
from qgf_ref.losses.optimiser import AdamState, adam
from qgf_ref.nets.initialisers import init_velocity
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.progress import tracked

UPDATES = 10_000
QUICK_UPDATES = 2000


def learned_flow(
    mixture: GaussianMixture,
    *,
    hidden: Sequence[int] = (64, 64, 64),
    updates: int = UPDATES,
    batch: int = 256,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> MLPVelocity:
    """v_θ(a, t) of `mixture` by flow matching on fresh samples: a float64 copy of a float32 net.

    Observations have width 0: pass (B, 0). Times are drawn from U[0, 1] (method.md, section 1, the
    paper's formula), so that any T can be sampled; the learning rate falls to 0 along half a
    cosine. One BLAS thread: the same seed gives the same bits on the same machine.
    Raises InputError unless updates ≥ 1 and batch ≥ 1, and on an architecture without layers.
    """
    if updates < 1 or batch < 1 or not hidden:
        raise InputError(
            f"learned_flow needs updates ≥ 1, batch ≥ 1 and a hidden layer, got {updates}, "
            f"{batch} and {tuple(hidden)}"
        )
    rng = np.random.default_rng(seed)
    field = MLPVelocity(init_velocity(rng, 0, mixture.dim, hidden))
    state = AdamState.zero(field.params)
    obs = np.zeros((batch, 0), dtype=np.float32)
    with threadpool_limits(1):
        for update in tracked(range(updates), updates, "update", title="learned velocity"):
            x0 = rng.standard_normal((batch, mixture.dim)).astype(np.float32)
            x1 = mixture.sample(rng, batch).astype(np.float32)
            times = rng.uniform(size=batch).astype(np.float32)
            _, params_bar = flow_matching(field, obs, x0, x1, times)
            rate = learning_rate * 0.5 * (1 + np.cos(np.pi * update / updates))
            params, state = adam(field.params, params_bar, state, float(rate))
            field = replace(field, params=params)
    return replace(field, params=field.params.astype(np.float64))
