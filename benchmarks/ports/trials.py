"""A sampler of somebody's beside the reference on its own networks, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import qgf_ref
from benchmarks.ports.sources import Source
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.outcome import Diagnosis
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.registry import EstimatorLike, GuidanceFunction
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.testing import check_flow, check_sampler

ROWS, STEPS = 8, 5
BUDGET, SHORT = 3000, 600
"""Calls of a network: for a name, and where none is expected, so that no pairs are tried."""


@dataclass(frozen=True)
class Trial:
    """One comparison.

    samples   which functions and classes of theirs the numbers come from
    sampler   (obs, noise, weight) → actions, by `samples`
    expected  names of mistakes; ("unknown",) where there is none for it
    weighted  False: their loop has no weight, and is run once, at 1
    """

    source: Source
    samples: str
    flow: GuidedFlow
    obs: Array
    sampler: Callable[[Array, Array, float], Array]
    estimator: EstimatorLike
    expected: tuple[str, ...] = ()
    weighted: bool = True

    @property
    def against(self) -> str:
        """The estimator as pages show it."""
        return f"`{self.estimator}`" if isinstance(self.estimator, str) else "a function of ours"

    @property
    def budget(self) -> int:
        """Calls of a network."""
        return SHORT if self.expected == ("unknown",) else BUDGET


@dataclass(frozen=True)
class Outcome:
    """names of mistakes, () for agreement; largest error over the limit, where one is explained."""

    names: tuple[str, ...]
    excess: float | None


def outcome(trial: Trial) -> Outcome:
    """What `check_sampler`, or `compare`, says."""
    if not trial.weighted:
        return _read(_compared(trial))
    try:
        report = check_sampler(
            trial.sampler, trial.flow, estimator=trial.estimator, observations=trial.obs,
            budget=trial.budget,
        )  # fmt: skip
    except CrossCheckError as error:
        if not isinstance(getattr(error.report, "diagnosis", None), Diagnosis):
            raise
        return _read(error.report.diagnosis)  # type: ignore[attr-defined]
    return _read(report.diagnosis)


def _compared(trial: Trial) -> Diagnosis:
    rng = np.random.default_rng(0)
    shape = (len(trial.obs), trial.flow.field.action_dim)
    noise = rng.standard_normal(shape).astype(np.float32)
    arrays = {"obs": trial.obs, "noise": noise, "action": trial.sampler(trial.obs, noise, 1.0)}
    trace = recorded_trace(arrays, source=trial.samples)
    return compare(
        trial.flow, trace, estimator=trial.estimator, weight=1.0, budget=trial.budget
    ).diagnosis


def _read(diagnosis: Diagnosis) -> Outcome:
    if not diagnosis.explanations:
        return Outcome(("unknown",), None)
    first = diagnosis.explanations[0]
    names = () if diagnosis.agrees else tuple(n for e in diagnosis.explanations for n in e.names)
    return Outcome(names, float(first.excess))


def clauses(flow: GuidedFlow, obs: Array) -> int:
    """How many clauses of the contract their networks fulfil: all, or `check_flow` raises."""
    return len(check_flow(flow, obs).checked)


def gated(base: str, spread: float) -> GuidanceFunction:
    """G of `base` times exp(−spread·std of the members' Q): SmolVLA-with-QGF's gate."""
    gradient = qgf_ref.estimator(base)

    def guided(flow: GuidedFlow, step: DenoisingStep) -> Array:
        answer = gradient(flow, step)
        assert answer.q is not None
        return answer.gradient * np.exp(-spread * answer.q.std(axis=0))[:, None]

    return guided
