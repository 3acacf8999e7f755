"""Updates on the device beside the reference's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.step import TrainState, update
from qgf_ref.backends.engine import backend_named
from qgf_ref.data.windows import Transitions, sample_starts, windows
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.nets.networks import Networks
from tests.helpers.small import small_checkpoint

O, D = 5, 3
"""Of the small agent."""
HYPER = Hyperparameters(horizon=2, learning_rate=1e-2, denoise_steps=4)
ORDERED: dict[str, Any] = {
    "norm_after_activation": "all", "residual": "all", "activation": "mish,critic=elu",
}  # fmt: skip
"""Of blocks; `qgf_ref.agents.checkpoint.Options`."""


def transitions(steps: int = 60, O: int = 5, A: int = 3) -> Transitions:
    """A small data set, float32."""
    rng = np.random.default_rng(0)
    terminals = (rng.random(steps) < 0.2).astype(np.float32)
    obs, next_obs, action = (rng.standard_normal((steps, n)).astype(np.float32) for n in (O, O, A))
    return Transitions(
        obs,
        next_obs,
        action,
        rng.standard_normal(steps).astype(np.float32),
        (rng.random(steps) < 0.8).astype(np.float32),
        terminals,
    )


def networks(agent: Agent, kernels: Any, **options: Any) -> Networks:
    """Small networks of an agent, float32, those of a base beside them; options of its checkpoint.

    Averages are moved away from what they follow, biases and offsets from 0.
    """
    hidden = (8, 8, 8) if options else (11, 10, 9)
    checkpoint = small_checkpoint(1, dtype="float32", members=3, hidden=hidden)
    checkpoint = replace(checkpoint, options=replace(checkpoint.options, **options))
    settings = checkpoint.network_settings("float32", kernels)
    rng = np.random.default_rng(3)
    made = dict(vars(checkpoint.networks(embedding="float32", kernels=kernels)))
    if agent.base is None:
        made.clear()
    initial = agent.initial(rng, O, D * chunk_of(agent), hidden, 3)
    for part in agent.parts:
        params = initial[part.name].map(lambda a: a + rng.normal(0, 0.1, a.shape))
        made[part.name] = part.network(params.astype("float32"), settings)
    return Networks(**made)


def chunk_of(agent: Agent) -> int:
    """How many actions of `D` numbers the small agent's chunk has."""
    return getattr(agent.settings, "policy_chunk_size", 1)


def update_errors(
    agent: Agent, options: dict[str, Any], updates: int = 2, there: bool = True
) -> tuple[float, float, float]:
    """The largest error of a parameter and of a moment, in units of their arrays' sizes, and of a
    loss, relative to its own, after some updates.

    Moments say what parameters hide: Adam's first steps are nearly the gradients' signs.
    there  whether the arrays are on the device; else they are NumPy's, on the device's kernels
    """
    recipe, backend = agent.require_recipe(), backend_named("cupy")
    assert recipe.resident and backend.residence is not None
    place, rng = backend.residence(), np.random.default_rng(1)
    starts = sample_starts(rng, transitions(), 9, chunk_of(agent))
    plain = windows(transitions(), starts, chunk_of(agent), HYPER.discount).astype(np.float32)
    batch: Any = recipe.taking(plain).astype(np.float32)
    reference, drawn = backend_named("numpy").kernels(), recipe.draw(rng, batch, HYPER)
    given = batch, drawn
    if there:
        given = place.upload(batch), {name: place.put(array) for name, array in drawn.items()}
    ours, theirs = (
        TrainState.create(recipe, networks(agent, kernels, **options))
        for kernels in (backend.kernels(), reference)
    )
    ours, losses = ours.map(place.put) if there else ours, [0.0]
    for _ in range(updates):
        theirs, expected = update(recipe, theirs, batch, drawn, HYPER)
        ours, got = update(recipe, ours, *given, HYPER)
        losses += [
            abs(float(got.values[name]) - float(value)) / abs(float(value))
            for name, value in expected.values.items()
        ]
    back = ours.map(place.get)
    parameters = [
        _error(back.networks[part].params, theirs.networks[part].params)
        for part in vars(theirs.networks)
    ]
    moments = [
        _error(getattr(back.moments[part], which), getattr(adam, which))
        for part, adam in theirs.moments.items()
        for which in ("mean", "square")
    ]
    finite = np.isfinite(losses).all()
    return max(parameters), max(moments), max(losses) if finite else np.inf


def _error(ours: Any, reference: Any) -> float:
    """Infinite where something is not finite: `max` would pass over it."""
    pairs = zip(ours.arrays(), reference.arrays(), strict=True)
    errors = [float(np.abs(a - b).max() / max(1e-30, np.abs(b).max())) for a, b in pairs]
    return max(errors) if np.isfinite(errors).all() else np.inf
