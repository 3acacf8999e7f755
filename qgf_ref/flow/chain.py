"""Samplers of steps each of which calls one network once: of a diffusion, or of a single step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from qgf_ref.arrays import Array


class ChainStep(NamedTuple):
    """One step, each (B, D): the state before it, what the network said there, the clean action
    estimated from that, and the state after it.
    """

    state: Array
    output: Array
    estimate: Array
    following: Array


class Chain:
    """How an action is made of noise. Step n = 0 … calls the network at the state, and moves it.

    draws  whether the steps add noise z of their own, one (B, D) for each of T
    words  what reports call its quantities: v, the output; a1_hat, the estimate; a, the state
    """

    draws: ClassVar[bool] = False
    words: ClassVar[dict[str, str]] = {}

    def steps(self, T: int) -> int:
        """How many, of a checkpoint with T denoising steps."""
        return T

    def output(self, net: Any, obs: Array, x: Array, n: int, T: int) -> Array:
        """What the network says at x (B, D)."""
        raise NotImplementedError

    def estimate(self, net: Any, output: Array, x: Array, n: int, T: int) -> Array:
        """The clean action that follows from the output, as it enters the next state."""
        return output

    def moved(
        self, net: Any, output: Array, estimate: Array, x: Array, z: Array | None, n: int, T: int
    ) -> Array:
        """The next state. z (T, B, D) of a chain that draws."""
        return estimate


def chain_steps(
    chain: Chain, net: Any, obs: Array, noise: Array, z: Array | None, T: int
) -> Iterator[ChainStep]:
    """The steps from noise (B, D); obs (B, O). The last one's `following` is not clipped."""
    x = noise
    for n in range(chain.steps(T)):
        output = chain.output(net, obs, x, n, T)
        estimate = chain.estimate(net, output, x, n, T)
        following = chain.moved(net, output, estimate, x, z, n, T)
        yield ChainStep(x, output, estimate, following)
        x = following


def chain_end(chain: Chain, net: Any, obs: Array, noise: Array, z: Array | None, T: int) -> Array:
    """The last state (B, D). Arguments as those of `chain_steps`."""
    x = noise
    for step in chain_steps(chain, net, obs, noise, z, T):
        x = step.following
    return x
