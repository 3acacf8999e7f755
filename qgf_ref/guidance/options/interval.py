"""Guidance at some of the times only."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Guidance, GuidedFlow, Products
from qgf_ref.guidance.options.base import Wrapped, words
from qgf_ref.ops.structure import zeros

SLACK = 1e-6
"""Times that are rounded to float32 are off by 6e-8: k/T = 0.3 is then not beyond 0.3."""


@dataclass(frozen=True)
class Interval(Wrapped):
    """G ← G where low ≤ t ≤ high, 0 at other times; t = 0 is noise, t = 1 the action.

    Both ends belong to it, to 1e-6. Outside, the base is not asked: no products, so that guidance
    on a third of the steps costs a third. (A trace asks the critic nevertheless, at the one-step
    estimate.) A gradient field where the base's G is one.
    Source: Kynkäänniemi et al. 2024, arXiv 2404.07724, whose interval is of noise levels σ of
    classifier-free guidance: of the linear path σ = (1 − t)/t. Diffuser's `t_stopgrad` is a high of
    1 − t_stopgrad/T (jannerm/diffuser, diffuser/sampling/functions.py at 34d0e93).
    Raises InputError unless 0 ≤ low ≤ high ≤ 1.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        ends = self.low, self.high
        if not all(isinstance(t, int | float) for t in ends) or not 0 <= ends[0] <= ends[1] <= 1:
            raise InputError(
                f"interval=low,high needs 0 ≤ low ≤ high ≤ 1 (t = 0 is noise), got {ends[0]!r},"
                f"{ends[1]!r}"
            )
        super().__post_init__()

    @property
    def option(self) -> str:
        """interval=low,high."""
        return f"interval={words(self.low)},{words(self.high)}"

    @property
    def formula(self) -> str:
        """With its ends."""
        return f"0 unless {self.low:g} ≤ t ≤ {self.high:g}"

    def asks(self, time: float) -> bool:
        """Whether there is guidance at this time."""
        return self.low - SLACK <= time <= self.high + SLACK and super().asks(time)

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The base's answer, or 0."""
        if self.asks(step.time):
            return self.base(flow, step)
        return Guidance(flow.kernels(zeros, step.action))

    def products(self, flow: GuidedFlow, index: int) -> Products | None:
        """The base's within the interval."""
        return super().products(flow, index) if self.asks(flow.times[index]) else Products()

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        """The base's Φ, or 0·Φ outside."""
        return self.scaled_potential(flow, step, 1.0 if self.asks(step.time) else 0.0)
