"""Where estimators are measured: the chain without guidance, and what each answers along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.on_engine import for_each, ours, remembering
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.sampling import trace

STATE_WEIGHT = 0.1
"""For estimators whose G depends on the weight."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ChainGradients:
    """What is measured on: the chain without guidance of obs (B, O), and every estimator's G there.

    noise (B, D); states: its T steps; epsilon (T, B, D): where a_t is moved to; gradients (T, B,
    D), by label; plain, by label: whether all of them are finite, and none came with an
    acceleration
    """

    noise: Array
    states: list[DenoisingStep]
    epsilon: Array
    gradients: dict[str, Array]
    plain: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        flow: GuidedFlow,
        obs: Array,
        estimators: list[Estimator],
        seed: int,
        progress: Progress = lambda _: None,
        threads: int = 1,
    ) -> ChainGradients:
        """By the reference, in so many threads. Deterministic in `seed`."""
        rng = np.random.default_rng((seed, 1))
        noise = rng.standard_normal((len(obs), flow.field.action_dim))
        chain = trace(flow, obs, estimator="none", noise=noise)

        def along(flow: GuidedFlow) -> list[DenoisingStep]:
            steps = enumerate(chain.a)
            return [denoising_step(flow, chain.obs, a, k, STATE_WEIGHT) for k, a in steps]

        known, states = remembering(flow), along(flow)
        again = along(known)
        gradients, plain = dict[str, Array](), dict[str, bool]()

        def answers(e: Estimator) -> tuple[Array, bool]:
            progress(f"(b) gradients of {e.label}")
            place, steps = (known, again) if ours(e) else (flow, states)
            answered = [e(place, step) for step in steps]
            g = np.stack([guidance.gradient for guidance in answered])
            straight = all(guidance.acceleration is None for guidance in answered)
            return g, straight and bool(np.isfinite(g).all())

        for label, (g, straight) in for_each(estimators, answers, threads).items():
            gradients[label], plain[label] = g, straight
        return cls(noise, states, rng.standard_normal(chain.a.shape), gradients, plain)
