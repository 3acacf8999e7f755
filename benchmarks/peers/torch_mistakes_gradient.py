"""Mistakes of the PyTorch port in its gradient: what is differentiated, in what, and scaled how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.torch_mistake import (
    GUIDED,
    Mistake,
    always,
    minimum,
    online_differs,
    several_members,
    several_steps,
)
from benchmarks.peers.torch_sampler import Step, TorchSampler, derivative

Right = TorchSampler


def _instead(f: Callable[[Any, Step, Tensor], Tensor], applies: Any = always) -> Mistake:
    """Another gradient than ∇Q at the query point x: f(self, s, x)."""
    return Mistake({"gradient": f}, applies=applies, estimators=("qgf",))


def of_gradient(f: Callable[[Any, Step, Tensor], Tensor], applies: Any = always) -> Mistake:
    """The estimator's gradient g, changed: f(self, s, g)."""

    def gradient(self: TorchSampler, s: Step, x: Tensor) -> Tensor:
        return f(self, s, Right.gradient(self, s, x))

    return Mistake({"gradient": gradient}, applies=applies, estimators=GUIDED)


def _unclipped(self: TorchSampler, s: Step) -> Callable[[Tensor], Tensor]:
    return lambda a: a + (1 - s.t) * self.policy(s.obs, a, s.t)


def _through_clip(self: TorchSampler, s: Step, x: Tensor) -> Tensor:
    g = self.at_query(s, x)
    return derivative(lambda y: (self.clip(y) * g).sum(), s.a + (1 - s.t) * s.v)


def _unmasked_vjp(self: TorchSampler, s: Step, x: Tensor) -> Tensor:
    g, f = self.at_query(s, x), _unclipped(self, s)
    return derivative(lambda a: (f(a) * g).sum(), s.a)


def _unmasked_jvp(self: TorchSampler, s: Step, x: Tensor) -> Tensor:
    # J g is the derivative of Jᵀu in u, along g
    g, f = self.at_query(s, x), _unclipped(self, s)
    with torch.enable_grad():
        a, u = s.a.clone().requires_grad_(), torch.zeros_like(s.a).requires_grad_()
        (pulled,) = torch.autograd.grad((f(a) * u).sum(), a, create_graph=True)
        return torch.autograd.grad((pulled * g).sum(), u)[0]


def _of_observation(self: TorchSampler, s: Step, x: Tensor) -> Tensor:
    O, D = s.obs.shape[1], x.shape[1]

    def value(z: Tensor) -> Tensor:
        return self.objective(self.members(self.guiding, z[:, :O], z[:, O:]))

    return derivative(value, torch.cat([s.obs, x], -1))[:, :D]


def _velocity_norm(self: TorchSampler, s: Step, g: Tensor) -> Tensor:
    return g * (s.v.norm(dim=-1, keepdim=True) / g.norm(dim=-1, keepdim=True))


_BPTT: dict[str, Callable[..., Any]] = {
    "query": lambda self, s: self.endpoint(s),
    "gradient": lambda self, s, x: self.through_query(s),
}

GRADIENT = {
    "gradient-clip-masked": _instead(_through_clip),
    "gradient-jacobian": _instead(lambda self, s, x: self.through_query(s)),
    "gradient-jacobian-unmasked": _instead(_unmasked_vjp),
    "gradient-jvp-for-vjp": _instead(_unmasked_jvp),
    "gradient-bptt": Mistake(_BPTT, estimators=("none", "qgf")),
    "gradient-at-noisy-action": _instead(lambda self, s, x: self.at_query(s, s.a)),
    "gradient-batch-mean": of_gradient(lambda self, s, g: g / len(g)),
    "gradient-batch-ensemble-mean": of_gradient(lambda self, s, g: g / (len(g) * len(self.target))),
    "gradient-unit-norm": of_gradient(lambda self, s, g: g / g.norm(dim=-1, keepdim=True)),
    "gradient-norm-clipped": of_gradient(
        lambda self, s, g: g * (0.1 / (g.norm(dim=-1, keepdim=True) + 1e-6)).clamp(max=1)
    ),
    "gradient-norm-clipped-batch": of_gradient(
        lambda self, s, g: g * (0.2 / (g.norm() + 1e-6)).clamp(max=1)
    ),
    "gradient-value-clipped": of_gradient(lambda self, s, g: g.clamp(-0.05, 0.05)),
    "gradient-sign": of_gradient(lambda self, s, g: g.sign()),
    "gradient-times-1-t": of_gradient(lambda self, s, g: (1 - s.t) * g, several_steps),
    "gradient-times-t": of_gradient(lambda self, s, g: s.t * g),
    "gradient-over-1-t": of_gradient(lambda self, s, g: g / (1 - s.t), several_steps),
    "gradient-velocity-norm": of_gradient(_velocity_norm),
    "gradient-negated": of_gradient(lambda self, s, g: -g),
    "gradient-of-observation": _instead(
        _of_observation, lambda ck: ck.obs_dim >= ck.flat_action_dim
    ),
    "gradient-action-mean": of_gradient(
        lambda self, s, g: g / g.shape[-1], lambda ck: ck.flat_action_dim > 1
    ),
}


def objective(f: Callable[[Tensor], Tensor], applies: Any = minimum) -> Mistake:
    """Another scalar of q (E, B) is differentiated."""
    return Mistake({"objective": lambda self, q: f(q)}, applies=applies, estimators=GUIDED)


def _guide_online(sampler: TorchSampler) -> None:
    sampler.guiding = sampler.online


AGGREGATION = {
    "ensemble-mean": objective(lambda q: q.mean(0).sum()),
    "ensemble-sum": objective(lambda q: q.sum(0).sum()),
    "ensemble-max": objective(lambda q: q.amax(0).sum()),
    "ensemble-member-0": objective(lambda q: q[0].sum()),
    "ensemble-min-of-batch-sum": objective(lambda q: q.sum(1).amin()),
    "ensemble-min-over-batch": objective(
        lambda q: q.amin(1).sum(), lambda ck: ck.options.q_aggregation == "min"
    ),
    "ensemble-min": objective(
        lambda q: q.amin(0).sum(),
        lambda ck: several_members(ck) and ck.options.q_aggregation == "mean",
    ),
    "ties-first": objective(lambda q: q.min(dim=0).values.sum()),
    "critic-online": Mistake(edit=_guide_online, applies=online_differs),
}
