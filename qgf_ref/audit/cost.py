"""What one call of an estimator costs: its products, counted, and its time."""

from __future__ import annotations

import time

import numpy as np

from qgf_ref.audit.by_oracle import at_action
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.counting import counted

TIMING_SECONDS = 3.0
"""After which no more rounds of timings are begun."""


def products(e: Estimator, flow: GuidedFlow, states: list[DenoisingStep]) -> tuple[str, str]:
    """Of one call at the middle step, and of the whole chain, beyond the sampler's own forwards."""
    counting, counter = counted(e.on(flow))
    counting = e.on(counting)
    total, at_middle = counter.take(), ""
    for k, step in enumerate(states):
        state = denoising_step(counting, step.obs[:1], step.action[:1], k, step.weight)
        counter.take()  # the sampler's own forward of v is not the estimator's
        e(counting, state)
        taken = counter.take()
        total = total + taken
        if k == len(states) // 2:
            at_middle = str(taken)
    return at_middle, str(total)


def milliseconds(
    estimators: list[Estimator], flow: GuidedFlow, step: DenoisingStep
) -> dict[str, float]:
    """Median time of one call, the estimators taking turns so that none has the warm caches.

    Of 7 rounds, or where they take long of at least 3.
    """
    elapsed: dict[str, list[float]] = {e.label: [] for e in estimators}
    own = {e.label: _on(e, flow, step) for e in estimators}
    begun = time.perf_counter()
    for n in range(7):
        if n >= 3 and time.perf_counter() - begun > TIMING_SECONDS:
            break
        for e in estimators:
            its_flow, its_step = own[e.label]
            start = time.perf_counter()
            e(its_flow, its_step)
            elapsed[e.label].append(time.perf_counter() - start)
    return {label: float(np.median(times)) * 1e3 for label, times in elapsed.items()}


def _on(e: Estimator, flow: GuidedFlow, step: DenoisingStep) -> tuple[GuidedFlow, DenoisingStep]:
    """The flow that the estimator runs on, and the step with that flow's velocity."""
    own = e.on(flow)
    return own, step if own is flow else at_action(own, step, step.action)
