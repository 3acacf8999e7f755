"""FLOPs of any agent's sampler and update, counted on the way as the reference runs them.

Of matrix products alone: 2·I·F for each row and kernel (I, F), as in `qgf_ref.bench.counts`, whose
nominal count this is where that knows the sampler. Nothing that could be avoided is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.step import losses
from qgf_ref.backends.engine import Engine
from qgf_ref.backends.interface import Backend
from qgf_ref.backends.program.record import NotRecordable
from qgf_ref.losses.batch import Batch
from qgf_ref.ops import linear


class FlopCounter:
    """The reference's kernels, which count: `flops` of the matrix products so far."""

    def __init__(self) -> None:
        self.flops = 0

    def __call__(self, primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the primitive returns."""
        if primitive in _PRODUCTS:
            rows, kernel = args[0].shape[-2], args[1]
            kernel = kernel if isinstance(kernel, np.ndarray) else kernel.kernel
            self.flops += 2 * rows * kernel.size
        return primitive(*args, **kwargs)


_PRODUCTS = {linear.linear, linear.linear_jvp, linear.linear_vjp, linear.linear_vjp_params}


def chunk_flops(checkpoint: Checkpoint, how: Acting) -> int:
    """Of one action chunk; how: as the agent acts, but for its backend."""

    def unrecorded(*_: Any) -> Any:
        raise NotRecordable("what is counted layer by layer")

    counter, rng = FlopCounter(), np.random.default_rng(0)
    engine = Engine(Backend("counting", lambda dtype=None: counter, unrecorded))
    obs = rng.standard_normal((1, checkpoint.obs_dim))
    noise = rng.standard_normal((how.best_of, checkpoint.flat_action_dim))
    checkpoint.agent.act(checkpoint, obs, noise, replace(how, backend=engine))
    return counter.flops


def update_flops(checkpoint: Checkpoint, rows: int) -> int | None:
    """Of one update on a batch of so many rows; None of agents with goals, whose batches differ."""
    if checkpoint.agent.of_goals:
        return None
    counter, rng = FlopCounter(), np.random.default_rng(0)
    # every row costs the same
    obs, next_obs = (rng.standard_normal((1, checkpoint.obs_dim)) for _ in range(2))
    one = np.ones(1)
    batch = Batch(obs, np.zeros((1, checkpoint.flat_action_dim)), next_obs, -one, one, one)
    recipe, hyper = checkpoint.agent.require_recipe(), checkpoint.hyperparameters()
    drawn = recipe.draw(rng, batch, hyper)
    losses(recipe, checkpoint.networks(kernels=counter), batch, drawn, hyper)
    return rows * counter.flops
