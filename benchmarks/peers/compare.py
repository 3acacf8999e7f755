"""Two implementations of the training update, on the same work, and whether they agree."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np

from benchmarks.peers import jax_update
from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.agents.step import TrainState, update
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.nets.initialisers import init_value, init_velocity
from qgf_ref.nets.mlp import MLPParams

O, D = 28, 25
LOSS_TOLERANCE, CHANGE_TOLERANCE = 1e-4, 1e-3
"""Measured after 3 updates: losses 1.7e-5; changes 6.4e-5, the target critic's 1.4e-4."""

Sample = tuple[Batch, dict[str, Array]]
"""A batch, and what is drawn with it, by name."""


class Contender(Protocol):
    """A training run: one update, waiting for all of them, and the parameters of a network."""

    def step(self, sample: Sample) -> dict[str, Any]:
        """One update; the three losses."""
        ...

    def finish(self) -> None:
        """Return when every update so far is complete."""
        ...

    def arrays(self, network: str) -> list[Array]:
        """Parameters in the order of `MLPParams.arrays`."""
        ...


class Ours:
    """qgf_ref.agents.step with the kernels of `backend`; `threads` is for numba's.

    NumPy's BLAS takes as many threads as the process gives it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        hyper: Hyperparameters,
        backend: str = "numpy",
        threads: int = 1,
    ) -> None:
        kernels = backend_named(backend).kernels(checkpoint.dtype)
        nets = checkpoint.networks(embedding="float32", kernels=kernels)
        self.recipe = checkpoint.agent.require_recipe()
        self.state = TrainState.create(self.recipe, nets)
        self.hyper = hyper
        self.threads = threads if backend == "numba" else 1

    def step(self, sample: Sample) -> dict[str, Any]:
        """One update."""
        batch, drawn = sample
        self.state, losses = update(self.recipe, self.state, batch, drawn, self.hyper, self.threads)
        return losses.values

    def finish(self) -> None:
        """Nothing is ever outstanding."""

    def arrays(self, network: str) -> list[Array]:
        """Parameters."""
        return list(getattr(self.state.networks, network).params.arrays())


class Jax:
    """benchmarks.peers.jax_update. Updates are dispatched asynchronously, as JAX is used."""

    def __init__(self, checkpoint: Checkpoint, hyper: Hyperparameters) -> None:
        self.state = jax_update.initial_state(checkpoint)
        self.update = jax_update.jitted_update(checkpoint, hyper)

    def step(self, sample: Sample) -> dict[str, Any]:
        """One update."""
        batch, drawn = sample
        data = jax_update.inputs(batch)
        self.state, losses = self.update(self.state, data, drawn["x0"], drawn["t"])
        return losses

    def finish(self) -> None:
        """Wait for the last update."""
        jax.block_until_ready(self.state)

    def arrays(self, network: str) -> list[Array]:
        """Parameters."""
        return jax_update.arrays(self.state, network)


def checkpoint_of(hidden: tuple[int, ...], seed: int) -> Checkpoint:
    """Fresh networks of cube-single's sizes."""
    rng = np.random.default_rng(seed)
    options = Options("gelu", "min", 10, 5, True, 0.99, 0.9)
    critic = init_value(rng, O + D, hidden, ensemble=2)
    policy, value = init_velocity(rng, O, D, hidden), init_value(rng, O, hidden)
    return Checkpoint(options, policy, critic, critic, value)


def samples(rows: int, seed: int, count: int = 4) -> list[Sample]:
    """Random batches with noise and times, float32."""
    rng = np.random.default_rng(seed)

    def sample() -> Sample:
        batch = Batch(
            obs=rng.standard_normal((rows, O)),
            action=rng.uniform(-1, 1, (rows, D)),
            next_obs=rng.standard_normal((rows, O)),
            rewards=rng.uniform(-5, 0, rows),
            masks=rng.uniform(size=rows) < 0.9,
            valid=rng.uniform(size=rows) < 0.9,
        ).astype(np.float32)
        x0 = rng.standard_normal((rows, D)).astype(np.float32)
        return batch, {"x0": x0, "t": (rng.integers(0, 11, rows) / 10).astype(np.float32)}

    return [sample() for _ in range(count)]


def gemm_flops(checkpoint: Checkpoint, rows: int) -> int:
    """Floating-point operations of the matrix products that one update needs, nothing else.

    2·rows·I·F for each layer's forward and each of its two cotangents; the first layer's input
    needs none. The target critic, and the value of the next observation, go forward only.
    """

    def forward(params: MLPParams) -> int:
        return 2 * rows * sum(layer.kernel.size for layer in params.layers)

    def backward(params: MLPParams) -> int:
        return 2 * forward(params) - 2 * rows * params.layers[0].kernel.size

    learned = (checkpoint.policy, checkpoint.critic, checkpoint.value)
    only_forward = (checkpoint.target_critic, checkpoint.value)
    return sum(forward(p) + backward(p) for p in learned) + sum(forward(p) for p in only_forward)


def disagreement(
    checkpoint: Checkpoint, a: Contender, b: Contender, data: list[Sample], updates: int = 3
) -> dict[str, float]:
    """Run both for some updates. Largest relative difference of a loss, largest difference of the
    parameters' changes relative to the change (norms, by network), largest absolute difference.
    """
    found = {"loss": 0.0, "change": 0.0, "parameter": 0.0}
    for n in range(updates):
        losses_a, losses_b = (c.step(data[n % len(data)]) for c in (a, b))
        for name, loss in losses_a.items():
            difference = abs(float(loss) / float(losses_b[name]) - 1)
            found["loss"] = max(found["loss"], difference)
    for network in checkpoint.params:
        start = _flat(checkpoint.part(network).arrays())
        end_a, end_b = _flat(a.arrays(network)), _flat(b.arrays(network))
        change = np.linalg.norm(end_a - end_b) / np.linalg.norm(end_a - start)
        found["change"] = max(found["change"], float(change))
        found["parameter"] = max(found["parameter"], float(abs(end_a - end_b).max()))
    return found


def require_equal(found: dict[str, float]) -> None:
    """Exit, saying by how much, unless a `disagreement` is within the tolerances."""
    if not (found["loss"] <= LOSS_TOLERANCE and found["change"] <= CHANGE_TOLERANCE):
        raise SystemExit(
            f"the two implementations do not compute the same, so their speed says nothing: losses "
            f"differ by {found['loss']:.1e} (at most {LOSS_TOLERANCE:.0e}), the parameters' "
            f"changes by {found['change']:.1e} (at most {CHANGE_TOLERANCE:.0e})"
        )


def _flat(parts: Any) -> Array:
    return np.concatenate([np.ravel(part) for part in parts])
