"""The sampler in JAX, as fast as one would write it: a contender for the benchmarks.

The official structure (official.md, section 5) on the official flax modules (`jax_networks`): one
jitted `lax.scan` over the steps, the critic's members under one `vmap`, `jax.grad` of the sum over
the batch, parameters as arguments on the device. Only the action leaves the scan. float32, as
JAX's double precision is a switch of the whole process.

    sampler           QGF-Jacobian and BPTT by one reverse sweep (`jax.grad`)
    official_jacobian QGF-Jacobian as the official code forms it: the whole Jacobian of the
                      one-step estimate, row by row (vmap of jacrev), then Jᵀg
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_networks import Tree
from benchmarks.peers.jax_sampler import JaxSampler, Port, Step
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError


class OfficialJacobian(Port):
    """QGF-Jacobian by D reverse sweeps for each row."""

    def jacobian_gradient(self, s: Step) -> Any:
        """Jᵀ∇Q(s, â₁), J (B, D, D) formed."""

        def estimate(obs: Any, a: Any) -> Any:
            v = self.velocity(obs[None], a[None], s.k)[0]
            return self.estimate(s, a, v)

        jacobian = jax.vmap(jax.jacrev(estimate, argnums=1))(s.obs, s.a)
        g = self.critic_gradient(s, self.query(s))
        return jnp.einsum("bij,bi->bj", jacobian, g)


def sampler(
    checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int
) -> Callable[[Array, Array], Array]:
    """(obs (B, O), noise (B, D)) → actions (B, D). Raises InputError on what this peer lacks."""
    return _made(Port, checkpoint, estimator, weight, denoise_steps)


def official_jacobian(
    checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int
) -> Callable[[Array, Array], Array]:
    """As `sampler`; takes the estimator qgf_jacobian alone."""
    if estimator != "qgf_jacobian":
        raise InputError("forms the Jacobian of qgf_jacobian only")
    return _made(OfficialJacobian, checkpoint, estimator, weight, denoise_steps)


def _made(
    port: type[Port], checkpoint: Checkpoint, estimator: str, weight: float, steps: int
) -> Callable[[Array, Array], Array]:
    if checkpoint.dtype != "float32":
        raise InputError(f"takes float32 only, got {checkpoint.dtype}")
    made = JaxSampler(checkpoint, estimator=estimator, denoise_steps=steps, port=port)
    w = jnp.float32(weight)

    def run(obs: Array, noise: Array) -> Array:
        return np.asarray(_chain(made.port, made.params, obs, noise, w))

    return run


@functools.partial(jax.jit, static_argnums=0)
def _chain(port: Port, params: Tree, obs: Any, noise: Any, weight: Any) -> Any:
    port = replace(port, params=params)

    def body(a: Any, k: Any) -> Any:
        s = port.step(obs, a, k, weight, None)
        return port.advance(s, port.query(s), port.gradient(s, port.query(s))), None

    return port.finish(jax.lax.scan(body, noise, jnp.arange(port.T))[0])
