"""Updates on the device beside the reference's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.iql import RECIPE as IQL
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.step import TrainState, update
from qgf_ref.backends.engine import backend_named
from qgf_ref.data.windows import Transitions, sample_starts, windows
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.nets.networks import Networks
from tests.helpers.small import small_checkpoint

HYPER = Hyperparameters(horizon=2, learning_rate=1e-2)
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


def networks(recipe: Recipe, kernels: Any, **options: Any) -> Networks:
    """Small networks of a recipe, float32; options of its checkpoint."""
    checkpoint = small_checkpoint(1, dtype="float32", hidden=(8, 8, 8) if options else (11, 10, 9))
    checkpoint = replace(checkpoint, options=replace(checkpoint.options, **options))
    base = checkpoint.networks(embedding="float32", kernels=kernels)
    if recipe is IQL:
        return base
    (part,) = recipe.parts
    settings = checkpoint.network_settings("float32", kernels)
    params = part.initial(np.random.default_rng(3), 5, 3, (6, 5), 2)
    return Networks(**vars(base), **{part.name: part.network(params, settings)})


def update_errors(recipe: Recipe, options: dict[str, Any], updates: int = 2) -> tuple[float, float]:
    """The largest error of a parameter after some updates, and of a loss, relative to its size."""
    backend = backend_named("cupy")
    assert recipe.resident and backend.residence is not None
    place = backend.residence()
    rng = np.random.default_rng(1)
    data = transitions()
    starts = sample_starts(rng, data, 9, HYPER.horizon)
    # the small agent's chunk is one action of three numbers
    batch = windows(data, starts, 1, HYPER.discount).astype(np.float32)
    drawn = recipe.draw(rng, batch, HYPER)
    there = Batch(**{name: place.put(array) for name, array in vars(batch).items()})
    drawn_there = {name: place.put(array) for name, array in drawn.items()}
    reference = backend_named("numpy").kernels()
    ours = TrainState.create(recipe, networks(recipe, backend.kernels(), **options)).map(place.put)
    theirs = TrainState.create(recipe, networks(recipe, reference, **options))
    losses = [0.0]
    for _ in range(updates):
        theirs, expected = update(recipe, theirs, batch, drawn, HYPER)
        ours, got = update(recipe, ours, there, drawn_there, HYPER)
        losses += [
            abs(float(got.values[name]) - float(value)) / abs(float(value))
            for name, value in expected.values.items()
        ]
    back = ours.map(place.get)
    parameters = [
        float(np.abs(array - reference_array).max())
        for part in vars(theirs.networks)
        for reference_array, array in zip(
            theirs.networks[part].params.arrays(), back.networks[part].params.arrays(), strict=True
        )
    ]
    return max(parameters), max(losses)
