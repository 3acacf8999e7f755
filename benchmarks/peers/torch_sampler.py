"""The sampler once more, in PyTorch, as a porter writes it: modules, autograd, float32 on the CPU.

An independent implementation for the cross-check: it imports nothing of `qgf_ref` but containers
and errors. Every stage is a small method or module, so that a mistake (`torch_mistakes`) is the
replacement of one. Needs the `peers` extra. Source: official.md, sections 1 and 5.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name
from qgf_ref.nets.mlp import LayerParams, MLPParams

ESTIMATORS = ("none", "ood", "qgf", "qgf_jacobian", "bptt")
ACTIVATIONS: dict[str, Any] = {
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "mish": nn.Mish,
}


class Layer(nn.Module):
    """Dense → LayerNorm, where the parameters have one → activation."""

    def __init__(self, params: LayerParams, activation: nn.Module) -> None:
        super().__init__()
        fan_in, fan_out = params.kernel.shape
        self.dense: nn.Module = nn.Linear(fan_in, fan_out)
        self.dense.weight.data = torch.tensor(params.kernel.T, dtype=torch.float32)
        self.dense.bias.data = torch.tensor(params.bias, dtype=torch.float32)
        self.norm: nn.Module = nn.Identity()
        if params.scale is not None:
            self.norm = nn.LayerNorm(fan_out, eps=1e-6)
            self.norm.weight.data = torch.tensor(params.scale, dtype=torch.float32)
            self.norm.bias.data = torch.tensor(params.offset, dtype=torch.float32)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) → (B, F)."""
        y: Tensor = self.activation(self.norm(self.dense(x)))
        return y


def network(params: MLPParams, activation: str) -> nn.Sequential:
    """An MLP without ensemble axis: `Layer`s, the last without activation."""
    last = len(params.layers) - 1
    layers = [
        Layer(layer, nn.Identity() if i == last else ACTIVATIONS[activation]())
        for i, layer in enumerate(params.layers)
    ]
    return nn.Sequential(*layers).requires_grad_(False)


def ensemble(params: MLPParams, activation: str) -> nn.ModuleList:
    """One network for each member."""

    def member(e: int) -> MLPParams:
        return params.map(lambda a: a[e])

    return nn.ModuleList(network(member(e), activation) for e in range(params.ensemble or 0))


class Step(NamedTuple):
    """obs (B, O), a_t (B, D), index k, t (), v (B, D) and the weight w of one denoising step."""

    obs: Tensor
    a: Tensor
    k: int
    t: Tensor
    v: Tensor
    w: float


class TorchSampler:
    """The guided sampler of a checkpoint.

    estimator      one of `ESTIMATORS`
    denoise_steps  T, instead of the checkpoint's
    policy_net; target, online: critics; guiding, ranking: which of the two is used for what.
    Raises InputError on an unknown estimator or activation.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, estimator: str = "qgf", denoise_steps: int | None = None
    ) -> None:
        options = checkpoint.options
        if estimator not in ESTIMATORS:
            raise unknown_name("estimator of the PyTorch port", estimator, ESTIMATORS)
        if options.activation not in ACTIVATIONS:
            raise unknown_name("activation of the PyTorch port", options.activation, ACTIVATIONS)
        self.estimator, self.aggregation = estimator, options.q_aggregation
        self.T = options.denoise_steps if denoise_steps is None else denoise_steps
        self.horizon = options.horizon_length
        self.policy_net = network(checkpoint.policy, options.activation)
        self.target = ensemble(checkpoint.target_critic, options.activation)
        self.online = ensemble(checkpoint.critic, options.activation)
        self.guiding = self.ranking = self.target

    @torch.no_grad()
    def trace(self, obs: Array, noise: Array, weight: float) -> dict[str, Array]:
        """One run with all that happens on the way, float32.

        obs (B, O), noise a_0 (B, D), action (B, D), and by step: a (T, B, D) before the step,
        v (T, B, D), a1_hat (T, B, D) the query point, q (T, E, B) there, g (T, B, D) unweighted.
        """
        s, a0 = _tensor(obs), _tensor(noise)
        a, steps = self.denoise(s, a0, weight)
        found = {"obs": s, "noise": a0, "action": self.layout(self.finish(a))}
        found |= zip(("a", "v", "a1_hat", "q", "g"), map(torch.stack, zip(*steps)))
        return {name: x.numpy() for name, x in found.items()}

    @torch.no_grad()
    def sample(self, obs: Array, noise: Array, weight: float, best_of: int = 1) -> Array:
        """Actions (B, D), float32. obs (B, O), noise (B·best_of, D), observation-major."""
        repeated = self.repeat(_tensor(obs), best_of)
        a, _ = self.denoise(repeated, _tensor(noise), weight)
        action = self.finish(a)
        if best_of > 1:
            score = self.score(repeated, action, a).reshape(-1, best_of)
            action = action[torch.arange(len(obs)) * best_of + self.choose(score)]
        found: Array = self.layout(action).numpy()
        return found

    def denoise(
        self, obs: Tensor, noise: Tensor, weight: float
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """a_1 before the final clip, and (a, v, query, q, g) of every step."""
        a, w, steps = self.start(noise), self.weight(weight), []
        for k in range(self.T):
            t = self.time(k)
            step = Step(obs, a, k, t, self.policy(obs, a, t), w)
            x = self.query(step)
            g = self.gradient(step, x) if self.estimator != "none" else torch.zeros_like(x)
            steps.append((a, step.v, x, self.members(self.guiding, obs, x), g))
            a = self.advance(step, x, g)
        return a, steps

    # ---- the networks

    def time(self, k: int) -> Tensor:
        """t = k/T."""
        return torch.tensor(k, dtype=torch.float32) / self.T

    def frequencies(self) -> Tensor:
        """(8,)."""
        return torch.exp(-math.log(10000) * torch.arange(8, dtype=torch.float32) / 8)

    def angles(self, t: Tensor) -> Tensor:
        """(8,)."""
        return t * 10000 * self.frequencies()

    def embedding(self, t: Tensor) -> Tensor:
        """(16,), cosines first."""
        angles = self.angles(t)
        return torch.cat([torch.cos(angles), torch.sin(angles)])

    def policy_input(self, obs: Tensor, a: Tensor, embedding: Tensor) -> Tensor:
        """(B, O + D + 16)."""
        return torch.cat([obs, a, embedding], dim=-1)

    def policy(self, obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
        """v(s, a, t), (B, D)."""
        embedding = self.embedding(t).expand(len(a), -1)
        v: Tensor = self.policy_net(self.policy_input(obs, a, embedding))
        return v

    def critic_input(self, obs: Tensor, a: Tensor) -> Tensor:
        """(B, O + D)."""
        return torch.cat([obs, a], dim=-1)

    def members(self, critics: nn.ModuleList, obs: Tensor, a: Tensor) -> Tensor:
        """Q_e(s, a), (E, B)."""
        x = self.critic_input(obs, a)
        return torch.stack([critic(x)[:, 0] for critic in critics])

    # ---- guidance

    def clip(self, x: Tensor) -> Tensor:
        """To ±1. At ±1 exactly, minimum and maximum have the derivative ½, as jnp.clip; clamp 1."""
        return torch.minimum(torch.maximum(x, -torch.ones(())), torch.ones(()))

    def one_step(self, s: Step) -> Tensor:
        """â = clip(a + (1 − t)v)."""
        return self.clip(s.a + (1 - s.t) * s.v)

    def endpoint(self, s: Step) -> Tensor:
        """clip(Euler from t to 1 along v)."""
        a = s.a + s.v / self.T
        for k in range(s.k + 1, self.T):
            a = a + self.policy(s.obs, a, self.time(k)) / self.T
        return self.clip(a)

    def query(self, s: Step) -> Tensor:
        """Where the critic is asked, (B, D)."""
        if self.estimator == "ood":
            return s.a
        return self.endpoint(s) if self.estimator == "bptt" else self.one_step(s)

    def objective(self, q: Tensor) -> Tensor:
        """What is differentiated: the sum over the batch of min or mean over members. q (E, B).

        amin splits the derivative equally among ties, as jnp.min; min(dim=0) does not.
        """
        return (q.amin(0) if self.aggregation == "min" else q.mean(0)).sum()

    def at_query(self, s: Step, x: Tensor) -> Tensor:
        """∇Q(s, x) in x, (B, D)."""
        return derivative(lambda y: self.objective(self.members(self.guiding, s.obs, y)), x)

    def through_query(self, s: Step) -> Tensor:
        """∇Q(s, query(a)) in a, (B, D), through the policy and the clip."""

        def value(a: Tensor) -> Tensor:
            x = self.query(s._replace(a=a, v=self.policy(s.obs, a, s.t)))
            return self.objective(self.members(self.guiding, s.obs, x))

        return derivative(value, s.a)

    def gradient(self, s: Step, x: Tensor) -> Tensor:
        """The estimator's G (B, D); x (B, D) is the query point."""
        if self.estimator in ("qgf_jacobian", "bptt"):
            return self.through_query(s)
        return self.at_query(s, x)

    # ---- the update and the choice

    def weight(self, weight: float) -> float:
        """The weight as used."""
        return weight

    def start(self, noise: Tensor) -> Tensor:
        """a_0."""
        return noise

    def advance(self, s: Step, x: Tensor, g: Tensor) -> Tensor:
        """The action of the next step; x is the query point, g the gradient there."""
        return s.a + (s.v + s.w * g) / self.T

    def finish(self, a: Tensor) -> Tensor:
        """The final clip."""
        return a.clamp(-1, 1)

    def layout(self, action: Tensor) -> Tensor:
        """The flat action (B, H·A), as it is given out."""
        return action

    def repeat(self, obs: Tensor, best_of: int) -> Tensor:
        """(B·best_of, O), each observation best_of times in a row."""
        return obs.repeat_interleave(best_of, dim=0)

    def score(self, obs: Tensor, action: Tensor, unclipped: Tensor) -> Tensor:
        """What ranks the candidates, (B·best_of,): min or mean over members."""
        q = self.members(self.ranking, obs, action)
        return q.amin(0) if self.aggregation == "min" else q.mean(0)

    def choose(self, score: Tensor) -> Tensor:
        """(B, best_of) → (B,): the best candidate, the first among equals."""
        return score.argmax(dim=1)


class ReciprocalTimes(TorchSampler):
    """With t = k·(1/T): what XLA makes of the division in the official jitted sampler.

    For T = 6, 7, 20, 50 … some t differ from k/T by one float32 ulp, the embedding then by 1e-3.
    """

    def time(self, k: int) -> Tensor:
        """fl(k)·fl(1/T)."""
        return torch.tensor(k, dtype=torch.float32) * torch.tensor(1 / self.T)


def derivative(f: Any, x: Tensor) -> Tensor:
    """Gradient of the scalar f in x, by autograd."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(x), x)
    return g


def _tensor(array: Array) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)
