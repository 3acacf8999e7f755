"""JAX's and PyTorch's samplers and JAX's update on a GPU, of arrays that are there already.

Each gives a function of nothing that starts the work; who times it waits for the device. float32
products are float32, unless the name says TF32: that is JAX's own choice on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array

Start = Callable[[], Any]


def jax_sampler(
    checkpoint: Checkpoint, obs: Array, noise: Array, estimator: str, weight: float,
    formed: bool = False, tf32: bool = False,
) -> Start:  # fmt: skip
    """The jitted scan. formed: the official code's Jacobian, row by row."""
    import jax
    import jax.numpy as jnp

    from benchmarks.peers import speed_jax
    from benchmarks.peers.jax_sampler import JaxSampler

    port = speed_jax.OfficialJacobian if formed else speed_jax.Port
    steps = checkpoint.options.denoise_steps
    made = JaxSampler(checkpoint, estimator=estimator, denoise_steps=steps, port=port)
    params, there = jax.device_put((made.params, (jnp.asarray(obs), jnp.asarray(noise))))
    w = jnp.float32(weight)

    def start() -> Any:
        with jax.default_matmul_precision("tensorfloat32" if tf32 else "highest"):
            return speed_jax._chain(made.port, params, *there, w)

    return start


def torch_sampler(
    checkpoint: Checkpoint, obs: Array, noise: Array, estimator: str, weight: float, mode: str,
    platform: str = "cuda",
) -> Start:  # fmt: skip
    """mode: "eager", "compiled", or "graphs" (torch.compile's reduce-overhead)."""
    import torch
    import torch._dynamo

    from benchmarks.peers import speed_torch

    torch.set_float32_matmul_precision("highest")
    model = speed_torch.Model(checkpoint, estimator, weight, checkpoint.options.denoise_steps)
    there = torch.device(platform)

    def moved(layer: Any) -> Any:
        return tuple(None if part is None else part.to(there) for part in layer)

    model.policy, model.critic = (list(map(moved, x)) for x in (model.policy, model.critic))
    model.embeddings, model.times = model.embeddings.to(there), model.times.to(there)
    s, first = torch.from_numpy(obs).to(there), torch.from_numpy(noise).to(there)
    ways = {"eager": speed_torch._by_autograd}
    step: Any = partial(model.step, ways.get(mode, speed_torch._by_func))
    if mode != "eager":
        torch._dynamo.reset()
        how: Any = {"mode": "reduce-overhead"} if mode == "graphs" else {}
        step = torch.compile(step, fullgraph=True, dynamic=False, **how)
    ks = range(model.T) if estimator == "bptt" else [0] * model.T

    def start() -> Any:
        with torch.no_grad():
            a = first
            for k, t, e in zip(ks, model.times.unbind(), model.embeddings.unbind()):
                # the graph's own memory is written anew by its next replay
                a = step(s, a.clone() if mode == "graphs" else a, k, t, e)
            return speed_torch.bound(a)

    return start


class TorchClock:
    """CUDA events on PyTorch's current stream: `benchmarks.gpu_timing.Clock`."""

    def mark(self) -> Any:
        """An event."""
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, last: Any) -> float:
        """Seconds."""
        return float(first.elapsed_time(last)) / 1e3


def jax_training(checkpoint: Checkpoint, hyper: Any, batches: list[Any]) -> Start:
    """The jitted update; a call makes one, on the next of the batches (batch, x0, t)."""
    import jax

    from benchmarks.peers import jax_update

    step = jax_update.jitted_update(checkpoint, hyper)
    state = [jax_update.initial_state(checkpoint)]
    there = jax.device_put([(jax_update.inputs(b), x, t) for b, x, t in batches])
    turn = [0]

    def start() -> Any:
        turn[0] = (turn[0] + 1) % len(there)
        with jax.default_matmul_precision("highest"):
            state[0], values = step(state[0], *there[turn[0]])
        return values

    return start
