"""One loss of an agent: what it draws, what it looks at, and the parts that it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.path import sample_times
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks

Loss = tuple[float, Mapping[str, MLPParams]]
"""L, and ∂L/∂params of every part that the stage trains, by name."""


@dataclass(frozen=True)
class Draw:
    """Random numbers of one update, named: stages that name the same draw share it.

    sample    (rng, batch, hyper) → array; floats are then rounded to the batch's dtype
    row_axis  the axis that has the batch's rows
    """

    name: str
    sample: Callable[[np.random.Generator, Any, Hyperparameters], Array]
    row_axis: int = 0


@dataclass(frozen=True)
class StageInputs:
    """What a loss may look at; it changes none of it.

    nets   the agent's networks before the step, and those of its base
    batch  a Batch, or a GoalBatch for an agent that reaches goals
    drawn  the random numbers, by the name of their draw
    fixed  what `Stage.fixed` gave
    """

    nets: Networks
    batch: Any
    hyper: Hyperparameters
    drawn: Mapping[str, Array]
    fixed: Array | None = None


@dataclass(frozen=True)
class Stage:
    """A loss and its gradients, as pure functions.

    trains  the parts whose gradients `loss` returns; no other stage trains them
    loss    inputs → (L, {part: params_bar})
    draws   what it needs of random numbers, in the order in which the generator is asked
    reads   other parts that it evaluates once, held fixed: with `trains`, a measure of its work
    fixed   an array (…, B) that the loss holds fixed, each row computed from that row of the batch
            alone: idle threads may take over some of its rows
    each_step  of parts that `fixed` evaluates at each denoising step: how many forwards' worth
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[StageInputs], Loss]
    draws: tuple[Draw, ...] = ()
    reads: tuple[str, ...] = ()
    fixed: Callable[[StageInputs], Array] | None = None
    each_step: Mapping[str, int] = field(default_factory=dict)

    def fixed_rows(self, inputs: StageInputs, rows: slice) -> Array:
        """Some rows of `fixed`."""
        assert self.fixed is not None
        drawn = {
            draw.name: inputs.drawn[draw.name][(slice(None),) * draw.row_axis + (rows,)]
            for draw in self.draws
        }
        batch = inputs.batch.rows(rows)
        return self.fixed(replace(inputs, batch=batch, drawn={**inputs.drawn, **drawn}))


def _flow_times(rng: np.random.Generator, batch: Any, hyper: Hyperparameters) -> Array:
    rows = len(batch.obs)
    if hyper.flow_times == "grid":
        return sample_times(rng, rows, hyper.denoise_steps)
    return rng.uniform(size=rows)


NOISE = Draw("x0", lambda rng, batch, hyper: rng.standard_normal(batch.action.shape))
"""x0 (B, D), standard normal: where the flow starts."""
NEXT_NOISE = Draw("next_noise", NOISE.sample)
"""(B, D), standard normal: where the actor's next action starts, of a bootstrapped critic."""
FLOW_TIMES = Draw("t", _flow_times)
"""t (B,), uniform on the sampler's grid {0, 1/T, …, 1} or in [0, 1), as `hyper.flow_times` says."""
UNIFORM_TIMES = Draw("t", lambda rng, batch, hyper: rng.uniform(size=len(batch.obs)))
"""t (B,), uniform in [0, 1) whatever the settings say."""
