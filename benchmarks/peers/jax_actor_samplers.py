"""Samplers of EDP, FQL, QAM, DAC and QSM in plain JAX, right ones and wrong ones.

The peers of the training updates (`jax_agents`) act here; a mistake replaces their methods, or the
parameters that they load. Nothing is shared with the bank but the names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_agents import PEERS, Diffusion, mish
from benchmarks.peers.jax_update import initial_state, mlp
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array

Methods = dict[str, Any]
ACTS = {"edp": "policy", "fql": "actor_onestep_flow", "qam": "actor_fast",
        "dac": "actor", "qsm": "actor"}  # fmt: skip
"""The network that acts, by agent."""


class _Acting:
    """How an agent's peer acts: mixed into it. Every piece may be got wrong."""

    agent: str
    flow_part, ranking = "", "critic"

    def begin(self, noise: Any) -> Any:
        """Where the sampler starts."""
        return noise

    def end(self, x: Any) -> Any:
        """What is played."""
        return jnp.clip(x, -1, 1)

    def loaded(self, net: Any) -> Any:
        """The acting network's parameters."""
        return net

    def ranked(self: Any, q: Any) -> Any:
        """Of members (E, B·n), what candidates are ranked by."""
        return self.reduce(q, 0) if self.agent == "edp" else jnp.mean(q, 0)

    def run(self: Any, params: Any, obs: Any, noise: Any, z: Any) -> Any:
        """(action, {quantity: by step})."""
        net, x = self.loaded(params[self.flow_part or ACTS[self.agent]]), self.begin(noise)
        if self.agent in ("dac", "qsm"):
            x, steps = self.sampled(net, obs, x, z)
            every = zip(*steps, strict=True)
            traced = {n: jnp.stack(s) for n, s in zip(("a", "v", "a1_hat"), every, strict=True)}
            return self.end(x), traced
        if self.agent == "fql":
            y = self.output(params, net, obs, x)
            return self.end(y), {"a": x[None], "v": y[None]}
        n = len(noise) // len(obs)
        many, states, velocities = jnp.repeat(obs, n, 0), [], []
        for i in range(self.T):
            v = self.flow(net, many, x, np.float32(i / self.T) * jnp.ones(len(x)))
            states.append(x)
            velocities.append(v)
            x = x + v / self.T
        action = self.end(x)
        if n > 1:
            q = self.ranked(self.members(params[self.ranking], many, action)).reshape(-1, n)
            action = action[jnp.arange(len(obs)) * n + jnp.argmax(q, 1)]
        return action, {"a": jnp.stack(states), "v": jnp.stack(velocities)}

    def output(self: Any, params: Any, net: Any, obs: Any, x: Any) -> Any:
        """μ(s, z)."""
        return self.one_step(net, obs, x)


def sampler(
    checkpoint: Checkpoint, mistake: str = "", traced: bool = False, jitted: bool = False
) -> Callable[..., Any]:
    """The agent's sampler with this mistake in it, as `check_sampler` calls it."""
    agent = checkpoint.agent.name
    peer: Any = PEERS[agent]
    bases = (_Acting, peer)
    methods = {"agent": agent, **(OWN[agent][mistake] if mistake else {})}
    if agent == "edp":
        methods.setdefault("ranking", "target_critic")
    port = type("Port", bases, methods)(checkpoint, _Hyper(checkpoint.options.denoise_steps))
    params = initial_state(checkpoint)["params"]
    run = jax.jit(port.run) if jitted else port.run

    def sample(obs: Array, noise: Array, z: Any = None) -> Any:
        action, steps = run(params, obs, noise, z if np.ndim(z) == 3 else None)
        if not traced:
            return np.asarray(action)
        every = {"action": action, **steps}
        return {name: np.asarray(x) for name, x in every.items()}

    return sample


class _Hyper:
    """What of the hyperparameters acting needs."""

    def __init__(self, steps: int) -> None:
        self.denoise_steps = steps


def _layers(change: Callable[[Any], Any]) -> Methods:
    """The acting network's layers, and its encoder's, are changed when they are loaded."""

    def loaded(self: Any, net: Any) -> Any:
        if isinstance(net, tuple):
            return net[0], change(net[1]), change(net[2])
        return change(net)

    return {"loaded": loaded}


def _transposed(layers: Any) -> Any:
    return [
        (w.T if w.shape[0] == w.shape[1] and i < len(layers) - 1 else w, *rest)
        for i, (w, *rest) in enumerate(layers)
    ]


def _merged(layers: Any) -> Any:
    *before, (w, b), (out, c) = layers
    return [*before, (w @ out, b @ out + c)]


def _normed(layers: Any) -> Any:
    *before, (w, b), last = layers
    return [*before, (w, b, jnp.ones_like(b), jnp.zeros_like(b)), last]


def _in_bits(bits: int) -> Any:
    def product(layers: Any, x: Any, act: Any) -> Any:
        def cut(a: Any) -> Any:
            return jax.lax.reduce_precision(a, 8, bits)

        for i, (w, b, *_) in enumerate(layers):
            x = cut(x) @ cut(w) + b
            x = act(x) if i < len(layers) - 1 else x
        return x

    return product


def _rounded(bits: int) -> Methods:
    product = _in_bits(bits)
    return {
        "one_step": lambda self, net, obs, z: product(net, jnp.concatenate([obs, z], -1), self.act),
        "predicted": lambda self, net, obs, x, k: product(
            net[2],
            jnp.concatenate([x, obs, product(net[1], self.features(k, net[0]), mish)], -1), mish,
        ),
    }  # fmt: skip


def _predicting(act: Any) -> Methods:
    def predicted(self: Any, net: Any, obs: Any, x: Any, k: Any) -> Any:
        cond = mlp(net[1], self.features(k, net[0]), act)
        return mlp(net[2], jnp.concatenate([x, obs, cond], -1), act)

    return {"predicted": predicted}


def _of_betas(betas: Any) -> Any:
    return np.concatenate([[1.0], np.cumprod(1 - np.asarray(betas))])


def _cosine(self: Any) -> Any:
    at = np.cos((np.linspace(0, self.T, self.T + 1) / self.T + 0.008) / 1.008 * math.pi * 0.5) ** 2
    return _of_betas(np.clip(1 - at[1:] / at[:-1], 0, 0.999))


def _vp_to_20(self: Any) -> Any:
    t, T = np.arange(1, self.T + 1), self.T
    return _of_betas(1 - np.exp(-0.1 / T - 0.5 * (20 - 0.1) * (2 * t - 1) / T**2))


def _at_next(self: Any, k: int) -> Any:
    # of arrays without the row 0, whose index is clamped: ᾱ_(k−1) is read one row later, too
    alpha, hat, _ = Diffusion.at(self, min(k + 1, self.T))
    return alpha, hat, float(self.hats()[k])


def _clean_of(kept: Callable[[Any, int], float], root: bool = True) -> Methods:
    def cleaned(self: Any, x: Any, eps: Any, k: int) -> Any:
        hat = kept(self, k)
        rest = 1 - hat
        clean = (x - rest**0.5 * eps) / hat**0.5 if root else (x - rest * eps) / hat
        return jnp.clip(clean, -1, 1) if self.clips()[0] else clean

    return {"cleaned": cleaned}


def _mean_unclipped(self: Any, clean: Any, x: Any, eps: Any, k: int) -> Any:
    alpha, hat, _ = self.at(k)
    # in terms of ε, as papers have it
    return (x - (1 - alpha) / math.sqrt(1 - hat) * eps) / math.sqrt(alpha)


def _ddim(self: Any, clean: Any, x: Any, eps: Any, k: int) -> Any:
    last = self.at(k)[2]
    return math.sqrt(last) * clean + math.sqrt(1 - last) * eps


def _swapped(self: Any, clean: Any, x: Any, eps: Any, k: int) -> Any:
    return Diffusion.mean(self, x, clean, eps, k)


def _flags(before: bool, after: bool) -> Methods:
    return {"clips": lambda self: (before, after)}


def _posterior(self: Any, alpha: float, hat: float, last: float) -> float:
    return (1 - alpha) * (1 - last) / (1 - hat)


ENDS: dict[str, Methods] = {
    "start-same-in-rows": {"begin": lambda self, noise: jnp.broadcast_to(noise[:1], noise.shape)},
    "noise-clipped": {"begin": lambda self, noise: jnp.clip(noise, -1, 1)},
    "final-tanh": {"end": lambda self, x: jnp.tanh(x)},
    "biases-missing": _layers(lambda layers: [(w, 0 * b, *norm) for w, b, *norm in layers]),
    "kernels-transposed": _layers(_transposed),
    "matmul-tf32": _rounded(10),
    "matmul-bf16": _rounded(7),
}
DIFFUSION: dict[str, Methods] = {
    **ENDS,
    "step-as-fraction": {"told": lambda self, k: k / self.T},
    "step-from-0": {"told": lambda self, k: k - 1},
    "step-counted-up": {"told": lambda self, k: self.T + 1 - k},
    "features-sin-first": {
        "features": lambda self, k, w: jnp.roll(
            Diffusion.features(self, k, w), w.shape[0], axis=-1
        )
    },
    "features-without-2pi": {
        "features": lambda self, k, w: Diffusion.features(self, k / (2 * jnp.pi), w)
    },
    "obs-before-action": {"inputs": lambda self, obs, x, cond: [obs, x, cond]},
    "encoder-activated": {
        "encoded": lambda self, encoder, features: mish(mlp(encoder, features, mish))
    },
    "mish-is-relu": _predicting(jax.nn.relu),
    "mish-is-gelu": _predicting(jax.nn.gelu),
    "mish-is-silu": _predicting(jax.nn.silu),
    "schedule-linear": {"hats": lambda self: _of_betas(np.linspace(1e-4, 0.02, self.T))},
    "schedule-cosine": {"hats": _cosine},
    "schedule-to-20": {"hats": _vp_to_20},
    "schedule-row-later": {"at": _at_next, "deviation": lambda self, k: math.sqrt(
        1 - self.at(k)[0])},
    "alpha-hat-row-earlier": _clean_of(lambda self, k: self.at(k)[2]),
    "alpha-for-alpha-hat": _clean_of(lambda self, k: self.at(k)[0]),
    "alpha-hat-without-roots": _clean_of(lambda self, k: self.at(k)[1], root=False),
    "no-clip": _flags(False, False),
    "clip-before": _flags(True, False),
    "clip-after": _flags(False, True),
    "clip-before-and-after": _flags(True, True),
    "posterior-mean-unclipped": {"mean": _mean_unclipped, **_flags(False, False)},
    "clean-estimate-for-mean": {"mean": lambda self, clean, *rest: clean},
    "ddim-mean": {"mean": _ddim},
    "mean-shares-swapped": {"mean": _swapped},
    "posterior-variance": {"variance": _posterior},
    "noise-times-variance": {"deviation": lambda self, k: self.variance(*self.at(k))},
    "noise-in-last-step": {"noisy": lambda self, k: True},
    "noise-missing": {"noisy": lambda self, k: False},
    "noise-steps-reversed": {"draw": lambda self, z, n: z[self.T - n - 1]},
    "noise-of-first-step": {"draw": lambda self, z, n: z[0]},
    "noise-same-in-rows": {"draw": lambda self, z, n: z[n, :1]},
    "last-step-missing": {"numbers": lambda self: range(self.T, 1, -1)},
}  # fmt: skip
FQL: dict[str, Methods] = {
    **ENDS,
    "final-clip-missing": {"end": lambda self, x: x},
    "noise-before-obs": {
        "one_step": lambda self, net, obs, z: mlp(net, jnp.concatenate([z, obs], -1), self.act)
    },
    "acts-by-cloned-flow": {
        "output": lambda self, params, net, obs, x: self.euler(params["actor_bc_flow"], obs, x)
    },
    "one-step-as-velocity": {
        "output": lambda self, params, net, obs, x: x + self.one_step(net, obs, x)
    },
    "policy-norm-last-hidden": _layers(_normed),
    "policy-activation-last-hidden-missing": _layers(_merged),
    **{
        name: {"one_step": lambda self, net, obs, z, act=act: mlp(
            net, jnp.concatenate([obs, z], -1), act)}
        for name, act in {
            "gelu-erf": lambda x: jax.nn.gelu(x, approximate=False),
            "gelu-quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
            "activation-relu": jax.nn.relu,
            "activation-silu": jax.nn.silu,
        }.items()
    },
}  # fmt: skip
FLOW: dict[str, Methods] = {
    "best-of-argmin": {"ranked": lambda self, q: -_Acting.ranked(self, q)},
    "best-of-ignored": {"ranked": lambda self, q: 0 * q[0]},
    "final-clip-missing": {"end": lambda self, x: x},
    "noise-clipped": {"begin": lambda self, noise: jnp.clip(noise, -1, 1)},
    "grid-next": {
        "flow": lambda self, net, obs, x, t: PEERS[self.agent].flow(
            self, net, obs, x, t + np.float32(1 / self.T)
        )
    },
}
QAM: dict[str, Methods] = {
    **FLOW,
    "acts-by-slow-flow": {"flow_part": "actor_slow"},
    "acts-by-slow-average": {"flow_part": "target_actor_slow"},
    "best-of-target": {"ranking": "target_critic"},
    "best-of-min": {"ranked": lambda self, q: jnp.min(q, 0)},
}
EDP: dict[str, Methods] = {**FLOW, "best-of-online": {"ranking": "critic"}}
OWN: dict[str, dict[str, Methods]] = {
    "edp": EDP, "fql": FQL, "qam": QAM, "dac": DIFFUSION, "qsm": DIFFUSION,
}  # fmt: skip
"""Mistakes that are made, by agent."""
