"""The sampler in PyTorch, as fast as one would write it: a contender for the benchmarks.

The critic's members are one batched product (`baddbmm`): on 2 cores that was up to 1.5 times as
fast as one member after the other (batch 1), and at most 8% slower (batch 256). The time's
embeddings are made once.

    eager     gradients by autograd, which builds and walks a graph at every step
    compiled  one denoising step under torch.compile, gradients by torch.func, called T times: the
              whole loop in one graph took five times as long to compile and ran no faster.
              Needs a C++ compiler. Shapes: the first batch fixed, then dynamic, as by default.
    autotuned the same with max-autotune, and the networks frozen: their weights are constants that
              are repacked, and each batch is compiled anew
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch._dynamo
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.nets.mlp import MLPParams

ESTIMATORS = ("none", "ood", "qgf", "qgf_jacobian", "bptt")
COMPILERS = ("g++", "c++", "clang++")
Layer = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class Model:
    """The sampler of a checkpoint with one estimator and weight.

    Raises InputError on an estimator or activation that this peer lacks.
    """

    def __init__(self, checkpoint: Checkpoint, estimator: str, weight: float, steps: int) -> None:
        if estimator not in ESTIMATORS:
            raise unknown_name("estimator of the PyTorch peer", estimator, ESTIMATORS)
        self.eps = checkpoint.options.mlp.layer_norm_eps
        if checkpoint.options.activation != "gelu":
            raise InputError(f"takes gelu networks only, got {checkpoint.options.activation}")
        self.estimator, self.weight, self.T = estimator, weight, steps
        self.minimum = checkpoint.options.q_aggregation == "min"
        self.policy = _layers(checkpoint.policy, None)
        # an ensemble's vectors (E, F) act on features (E, B, F)
        self.critic = _layers(checkpoint.target_critic, 1)
        self.E = checkpoint.target_critic.ensemble or 1
        kind = self.policy[0][0].dtype
        # float32 on the way, as the official code has it
        k = torch.arange(steps, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10000) * torch.arange(8, dtype=torch.float32) / 8)
        angles = (k / steps * 10000)[:, None] * frequencies
        self.embeddings = torch.cat([angles.cos(), angles.sin()], -1).to(kind)
        self.times = (k / steps).to(kind)

    def velocity(self, obs: Tensor, a: Tensor, embedding: Tensor) -> Tensor:
        """(B, D)."""
        x = torch.cat([obs, a, embedding.expand(len(a), -1)], -1)
        for i, (kernel, bias, scale, offset) in enumerate(self.policy):
            x = torch.addmm(bias, x, kernel)
            if scale is not None:
                x = layer_norm(x, scale.shape, scale, offset, self.eps)
            if i < len(self.policy) - 1:
                x = gelu(x, approximate="tanh")
        return x

    def value(self, obs: Tensor, a: Tensor) -> Tensor:
        """The sum over the batch of the aggregated critic, ()."""
        x = torch.cat([obs, a], -1).expand(self.E, -1, -1)
        for i, (kernel, bias, scale, offset) in enumerate(self.critic):
            x = torch.baddbmm(bias, x, kernel)
            if scale is not None and offset is not None:
                x = layer_norm(x, scale.shape[-1:], eps=self.eps) * scale + offset
            if i < len(self.critic) - 1:
                x = gelu(x, approximate="tanh")
        q = x[..., 0]
        return (q.amin(0) if self.minimum else q.mean(0)).sum()

    def endpoint(self, obs: Tensor, a: Tensor, v: Tensor, k: int) -> Tensor:
        """Euler from t to 1, (B, D)."""
        a = a + v / self.T
        for j in range(k + 1, self.T):
            a = a + self.velocity(obs, a, self.embeddings[j]) / self.T
        return bound(a)

    def step(self, gradient: Any, obs: Tensor, a: Tensor, k: int, t: Tensor, e: Tensor) -> Tensor:
        """a of the next step. gradient (f, x) → (∇f(x), auxiliary), f (x) → (value, auxiliary).

        t () and e (16,) are step k's, as tensors: torch.compile would specialise on k.
        """
        if self.estimator == "none":
            return a + self.velocity(obs, a, e) / self.T

        def through(a: Tensor) -> tuple[Tensor, Tensor]:
            v = self.velocity(obs, a, e)
            if self.estimator == "bptt":
                return self.value(obs, self.endpoint(obs, a, v, k)), v
            return self.value(obs, bound(a + (1 - t) * v)), v

        if self.estimator in ("qgf_jacobian", "bptt"):
            g, v = gradient(through, a)
        else:
            v = self.velocity(obs, a, e)
            x = a if self.estimator == "ood" else bound(a + (1 - t) * v)
            g, _ = gradient(lambda x: (self.value(obs, x), v), x)
        return a + (v + self.weight * g) / self.T

    def chain(self, step: Any, obs: Array, noise: Array) -> Array:
        """Actions (B, D) of obs (B, O), noise (B, D)."""
        # bptt's step depends on k as a number, the others must not
        ks = range(self.T) if self.estimator == "bptt" else [0] * self.T
        with torch.no_grad():
            s, a = torch.from_numpy(obs), torch.from_numpy(noise)
            for k, t, e in zip(ks, self.times.unbind(), self.embeddings.unbind()):
                a = step(s, a, k, t, e)
            found: Array = bound(a).numpy()
        return found


def _of_buffers(network: str) -> Any:
    """A property of a module, layers which it keeps as its buffers."""

    def get(module: Any) -> list[Layer]:
        names = getattr(module, f"names_of_{network}")
        return [tuple(getattr(module, name) for name in layer) for layer in names]

    def keep(module: Any, layers: list[Layer]) -> None:
        names = [[f"{network}_{i}_{j}" for j in range(4)] for i in range(len(layers))]
        setattr(module, f"names_of_{network}", names)
        for of_layer, layer in zip(names, layers):
            for name, tensor in zip(of_layer, layer):
                module.register_buffer(name, tensor)

    return property(get, keep)


class Frozen(torch.nn.Module, Model):
    """A `Model` whose networks are a module's buffers: of others torch.compile makes arguments."""

    def __init__(self, *given: Any) -> None:
        torch.nn.Module.__init__(self)
        Model.__init__(self, *given)

    policy = _of_buffers("policy")
    critic = _of_buffers("critic")

    def forward(self, *given: Any) -> Tensor:
        """As `Model.step`."""
        return self.step(_by_func, *given)


def bound(x: Tensor) -> Tensor:
    """To ±1."""
    return x.clamp(-1, 1)


def eager(
    checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int
) -> Callable[[Array, Array], Array]:
    """(obs (B, O), noise (B, D)) → actions (B, D). Raises InputError on what this peer lacks."""
    model = Model(checkpoint, estimator, weight, denoise_steps)

    def step(*given: Any) -> Tensor:
        return model.step(_by_autograd, *given)

    return lambda obs, noise: model.chain(step, obs, noise)


def compiled(
    checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int
) -> Callable[[Array, Array], Array]:
    """As `eager`, but BPTT: its ten steps are ten graphs. Raises InputError without a compiler."""
    model = Model(checkpoint, estimator, weight, denoise_steps)
    return _compiled(model, lambda *given: model.step(_by_func, *given))


def autotuned(
    checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int
) -> Callable[[Array, Array], Array]:
    """As `compiled`."""
    model = Frozen(checkpoint, estimator, weight, denoise_steps)
    return _compiled(model, model, options={"max_autotune": True, "freezing": True})


def _compiled(model: Model, step: Any, **how: Any) -> Callable[[Array, Array], Array]:
    if not any(shutil.which(name) for name in COMPILERS):
        raise InputError(f"torch.compile needs a C++ compiler ({' or '.join(COMPILERS)})")
    if model.estimator == "bptt":
        raise InputError("takes minutes to compile the rollouts of bptt: left out")
    # code compiled for other networks would be searched at each call, and is limited in number
    torch._dynamo.reset()
    fast = torch.compile(step, fullgraph=True, **how)
    return lambda obs, noise: model.chain(fast, obs, noise)


def _by_autograd(f: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value, auxiliary = f(x)
        (g,) = torch.autograd.grad(value, x)
    return g, auxiliary.detach()


def _by_func(f: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    g, auxiliary = torch.func.grad(f, has_aux=True)(x)
    return g, auxiliary


def _layers(params: MLPParams, axis: int | None) -> list[Layer]:
    """The arrays as tensors, vectors with a new axis of 1 at `axis`."""

    def vector(x: Array | None) -> Tensor | None:
        if x is None:
            return None
        return torch.tensor(x if axis is None else np.expand_dims(x, axis))

    found = []
    for layer in params.layers:
        bias = vector(layer.bias)
        assert bias is not None
        found.append((torch.tensor(layer.kernel), bias, vector(layer.scale), vector(layer.offset)))
    return found
