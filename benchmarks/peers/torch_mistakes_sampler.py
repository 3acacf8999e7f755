"""Mistakes of the PyTorch port between its networks: time, query point, update, best of n."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.torch_mistake import (
    GUIDED,
    ONE_STEP,
    Mistake,
    always,
    minimum,
    online_differs,
    several_steps,
)
from benchmarks.peers.torch_sampler import ESTIMATORS, Step, TorchSampler

Right = TorchSampler

# ---- time


def _frequencies(period: float = 10000, steps: int = 8) -> Callable[..., Tensor]:
    return lambda self: torch.exp(-math.log(period) * torch.arange(8, dtype=torch.float32) / steps)


def _embedding_float64(self: TorchSampler, t: Tensor) -> Tensor:
    exact = torch.round(t * self.T).double() / self.T
    angles = (
        exact * 10000 * torch.exp(-math.log(10000) * torch.arange(8, dtype=t.double().dtype) / 8)
    )
    return torch.cat([torch.cos(angles), torch.sin(angles)]).float()


def _interleaved(self: TorchSampler, t: Tensor) -> Tensor:
    angles = self.angles(t)
    return torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1).flatten()


def _of_embedding(method: str, f: Callable[..., Tensor]) -> Mistake:
    """A mistake that k = 0 does not show."""
    return Mistake({method: f}, applies=several_steps)


EMBEDDING = {
    "time-sin-first": Mistake({"embedding": lambda self, t: Right.embedding(self, t).roll(8)}),
    "time-interleaved": Mistake({"embedding": _interleaved}),
    "time-unscaled": _of_embedding("angles", lambda self, t: t * self.frequencies()),
    "time-scale-1000": _of_embedding("angles", lambda self, t: t * 1000 * self.frequencies()),
    "time-half-minus-1": _of_embedding("frequencies", _frequencies(steps=7)),
    "time-max-period-1000": _of_embedding("frequencies", _frequencies(period=1000)),
    "time-index": _of_embedding(
        "embedding", lambda self, t: Right.embedding(self, torch.round(t * self.T))
    ),
    "time-float64": _of_embedding("embedding", _embedding_float64),
}


def _grid(f: Callable[[int, int], float], applies: Any = always) -> Mistake:
    """t = f(k, T)."""

    def time(self: TorchSampler, k: int) -> Tensor:
        return torch.tensor(f(k, self.T), dtype=torch.float32)

    return Mistake({"time": time}, applies=applies)


GRID = {
    "grid-next": _grid(lambda k, T: (k + 1) / T),
    "grid-inclusive": _grid(lambda k, T: k / (T - 1), several_steps),
    "grid-reversed": _grid(lambda k, T: 1 - k / T),
    "grid-midpoint": _grid(lambda k, T: (k + 0.5) / T),
}

# ---- the query point


def _one_step(f: Callable[[Any, Step], Tensor], applies: Any = always) -> Mistake:
    return Mistake({"one_step": f}, applies=applies, estimators=ONE_STEP)


def _guided_query(self: TorchSampler, s: Step) -> Tensor:
    g = self.at_query(s, Right.one_step(self, s))
    return Right.one_step(self, s._replace(v=s.v + s.w * g))


def clip_to(low: float, high: float) -> Mistake:
    """Another range for the query point."""
    return _one_step(lambda self, s: (s.a + (1 - s.t) * s.v).clamp(low, high))


QUERY = {
    "query-factor-t": _one_step(lambda self, s: self.clip(s.a + s.t * s.v)),
    "query-factor-minus-dt": _one_step(
        lambda self, s: self.clip(s.a + (1 - s.t - 1 / self.T) * s.v)
    ),
    "query-factor-1": _one_step(lambda self, s: self.clip(s.a + s.v), several_steps),
    "query-factor-dt": _one_step(lambda self, s: self.clip(s.a + s.v / self.T), several_steps),
    "query-unclipped": _one_step(lambda self, s: s.a + (1 - s.t) * s.v),
    "query-noisy": _one_step(lambda self, s: s.a),
    "query-noisy-clipped": _one_step(lambda self, s: self.clip(s.a)),
    "query-guided-velocity": _one_step(_guided_query),
    "query-clip-0-1": clip_to(0, 1),
    "query-clip-inside": clip_to(-(1 - 1e-5), 1 - 1e-5),
}

# ---- the update


def _weight(f: Callable[[float], float]) -> Mistake:
    return Mistake({"weight": lambda self, w: f(w)}, estimators=GUIDED)


def advance(
    f: Callable[[Any, Step, Tensor, Tensor], Tensor],
    estimators: tuple[str, ...] = GUIDED,
    applies: Any = always,
) -> Mistake:
    """The next action from step s, query point x and gradient g: f(self, s, x, g)."""
    return Mistake({"advance": f}, applies=applies, estimators=estimators)


def _by_clean_estimate(self: TorchSampler, s: Step, x: Tensor, g: Tensor) -> Tensor:
    return s.a + (self.clip(x + s.w * g) - s.a) / (1 - s.t) / self.T


def _query_after_step(self: TorchSampler, s: Step) -> Tensor:
    a, t = s.a + s.v / self.T, s.t + 1 / self.T
    return self.one_step(s._replace(a=a, t=t, v=self.policy(s.obs, a, t)))


def _action_major(self: TorchSampler, action: Tensor) -> Tensor:
    return action.reshape(len(action), self.horizon, -1).transpose(1, 2).flatten(1)


UPDATE = {
    "guidance-without-dt": advance(
        lambda self, s, x, g: s.a + s.v / self.T + s.w * g, applies=several_steps
    ),
    "weight-inverted": _weight(lambda w: 1 / w if w else 0.0),
    "weight-squared": _weight(lambda w: w**2),
    "weight-default-1": _weight(lambda w: 1.0),
    "weight-zero-as-default": _weight(lambda w: w or 1.0),
    "weight-integer": _weight(int),
    "guidance-missing": advance(lambda self, s, x, g: s.a + s.v / self.T),
    "guidance-convex": advance(
        lambda self, s, x, g: s.a + ((1 - s.w) * s.v + s.w * g) / self.T, ESTIMATORS
    ),
    "guidance-on-clean-estimate": advance(_by_clean_estimate, ONE_STEP),
    "guidance-after-step": Mistake(
        {"query": _query_after_step}, applies=several_steps, estimators=("none", "qgf")
    ),
    "steps-plus-1": advance(lambda self, s, x, g: s.a + (s.v + s.w * g) / (self.T + 1), ESTIMATORS),
    "steps-minus-1": advance(
        lambda self, s, x, g: s.a + (s.v + s.w * g) / (self.T - 1), ESTIMATORS, several_steps
    ),
    "clip-every-step": advance(
        lambda self, s, x, g: self.clip(Right.advance(self, s, x, g)), ESTIMATORS, several_steps
    ),
    "final-clip-missing": Mistake({"finish": lambda self, a: a}),
    "noise-clipped": Mistake({"start": lambda self, noise: self.clip(noise)}),
    "chunk-action-major": Mistake(
        {"layout": _action_major},
        applies=lambda ck: 1 < ck.action_dim < ck.flat_action_dim,
    ),
}

# ---- best of n


def _rank_online(sampler: TorchSampler) -> None:
    sampler.ranking = sampler.online


BEST_OF = {
    "best-of-tiled": Mistake({"repeat": lambda self, obs, n: obs.repeat(n, 1)}),
    "best-of-ranks-unclipped": Mistake(
        {"score": lambda self, obs, action, a: Right.score(self, obs, a, a)}
    ),
    "best-of-argmin": Mistake({"choose": lambda self, q: q.argmin(dim=1)}),
    "best-of-mean": Mistake(
        {"score": lambda self, obs, action, a: self.members(self.ranking, obs, action).mean(0)},
        applies=minimum,
    ),
    "best-of-online": Mistake(edit=_rank_online, applies=online_differs),
    "best-of-whole-batch": Mistake(
        {"choose": lambda self, q: (q.argmax() % q.shape[1]).expand(len(q))}
    ),
    "best-of-last": Mistake({"choose": lambda self, q: q.shape[1] - 1 - q.flip(1).argmax(dim=1)}),
    "best-of-ignored": Mistake({"choose": lambda self, q: torch.zeros(len(q), dtype=torch.long)}),
}
