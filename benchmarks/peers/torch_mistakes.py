"""The bank of mistakes, made one at a time in the PyTorch port of the sampler.

They prove the cross-check: what it says of `broken(checkpoint, name)` must be `name`, and of those
in `HELD_OUT`, which it has never been told, that it does not know. Most are written in
`torch_mistakes_networks`, `torch_mistakes_sampler` and `torch_mistakes_gradient`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import (
    torch_mistakes_gradient,
    torch_mistakes_networks,
    torch_mistakes_sampler,
)
from benchmarks.peers.torch_mistake import Mistake, several_steps
from benchmarks.peers.torch_mistakes_gradient import objective, of_gradient
from benchmarks.peers.torch_mistakes_sampler import advance, clip_to
from benchmarks.peers.torch_sampler import ESTIMATORS, Step, TorchSampler
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.errors import unknown_name


def broken(
    checkpoint: Checkpoint,
    mistake: str,
    *,
    estimator: str = "qgf",
    denoise_steps: int | None = None,
    base: type[TorchSampler] = TorchSampler,
) -> TorchSampler:
    """The port with one mistake of `MISTAKES` or `HELD_OUT` made in it.

    estimator, denoise_steps  as for `TorchSampler`; a mistake means what the bank says only with
                              an estimator and a checkpoint for which `applies` holds
    base                      the port in which it is made: `TorchSampler` or `ReciprocalTimes`
    Raises InputError on another name.
    """
    made = _mistake(mistake)
    cls: type[TorchSampler] = type("Broken", (base,), dict(made.methods))
    sampler = cls(checkpoint, estimator=estimator, denoise_steps=denoise_steps)
    if made.edit is not None:
        with torch.no_grad():
            made.edit(sampler)
    return sampler


def applies(checkpoint: Checkpoint, mistake: str, *, estimator: str = "qgf") -> bool:
    """Whether the mistake changes anything with this checkpoint, on some input.

    Raises InputError on a name that is in neither `MISTAKES` nor `HELD_OUT`.
    """
    made = _mistake(mistake)
    return estimator in made.estimators and made.applies(checkpoint)


def _mistake(name: str) -> Mistake:
    known = MISTAKES | HELD_OUT
    if name not in known:
        raise unknown_name("mistake", name, known)
    return known[name]


def _momentum(self: Any, s: Step, g: Tensor) -> Tensor:
    self.previous = g if s.k == 0 else 0.5 * g + 0.5 * self.previous
    previous: Tensor = self.previous
    return previous


def _heun(self: TorchSampler, s: Step, x: Tensor, g: Tensor) -> Tensor:
    after = self.policy(s.obs, s.a + s.v / self.T, s.t + 1 / self.T)
    return s.a + ((s.v + after) / 2 + s.w * g) / self.T


MISTAKES = {
    **torch_mistakes_networks.NETWORKS,
    **torch_mistakes_sampler.EMBEDDING,
    **torch_mistakes_sampler.GRID,
    **torch_mistakes_sampler.QUERY,
    **torch_mistakes_gradient.GRADIENT,
    **torch_mistakes_gradient.AGGREGATION,
    **torch_mistakes_sampler.UPDATE,
    **torch_mistakes_sampler.BEST_OF,
}
"""Every mistake of the bank, by name."""

HELD_OUT = {
    **torch_mistakes_networks.HELD_OUT,
    "unknown-time-quantised": Mistake(
        {"embedding": lambda self, t: TorchSampler.embedding(self, torch.round(t * 4) / 4)},
        applies=lambda ck: 4 % ck.options.denoise_steps != 0,
    ),
    "unknown-gradient-softmin": objective(lambda q: -torch.logsumexp(-5 * q, 0).sum() / 5),
    "unknown-gradient-momentum": of_gradient(_momentum, several_steps),
    "unknown-query-clip-0.9": clip_to(-0.9, 0.9),
    "unknown-heun": advance(_heun, ESTIMATORS),
    "unknown-weight-schedule": advance(
        lambda self, s, x, g: s.a + (s.v + s.w * (1 - s.t) * g) / self.T, applies=several_steps
    ),
    "unknown-final-tanh": Mistake({"finish": lambda self, a: a.tanh()}),
}
"""Mistakes that the bank lacks."""
