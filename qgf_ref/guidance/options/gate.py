"""Guidance where the critic's members agree."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Guidance, GuidedFlow
from qgf_ref.guidance.options.base import Wrapped, positive, with_gradient, words
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.row_numbers import plus, product, ratio, root
from qgf_ref.ops.structure import axpy, scaled, unsqueeze_last


@dataclass(frozen=True)
class Gated(Wrapped):
    """G ← γ·G with σ the members' standard deviation at the query point: γ = 1 where σ < c, else 0.

    σ² = mean_e (Q_e − mean Q)², over E and not E − 1 (NumPy's and JAX's default; PyTorch's `std`
    divides by E − 1, which for two members is a σ of √2 times this one). γ is a number of the row:
    no gradient is taken through it. soft: γ = c/(c + σ). No gradient field. Products: none of its
    own, since the base has asked every member.
    Source: critic uncertainty as the measure of how far to guide, as in MOPO's and PBRL's penalties
    (arXiv 2005.13239, 2202.11566) and the README of jebeom/VGD at f551ad9; the two rules [choice].
    Raises InputError unless c > 0, on a critic of one member, and on an estimator that asks none.
    """

    threshold: float = 1.0
    soft: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", positive(self.threshold, "gate=c: c"))
        super().__post_init__()

    @property
    def option(self) -> str:
        """gate=c, or gate=c,soft."""
        return f"gate={words(self.threshold)}" + (",soft" if self.soft else "")

    @property
    def formula(self) -> str:
        """The rule."""
        c = f"{self.threshold:g}"
        return f"times {c}/({c} + σ), σ = std_e Q_e" if self.soft else f"0 unless std_e Q_e < {c}"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """γ·G."""
        guidance = self.first_order(flow, step)
        if not self.asks(step.time):
            return guidance
        if guidance.q is None:
            raise InputError(f"{self.option}: {self.base.label} does not say what Q it saw")
        if len(guidance.q) < 2:
            raise InputError(f"{self.option} needs two members or more, this critic has one")
        run = flow.kernels
        deviation = run(unsqueeze_last, disagreement(run, guidance.q))
        if self.soft:
            gate = run(ratio, self.threshold, run(plus, deviation, self.threshold))
        else:
            left = run(plus, run(scaled, -1.0, deviation), self.threshold)
            gate = run(ratio, left, left)  # 1 if positive, else 0
        return with_gradient(guidance, run(scaled, gate, guidance.gradient))


def disagreement(run: Kernels, q: Array) -> Array:
    """The standard deviation (B,) of the members q (E, B), over E."""
    members = len(q)
    mean, shares = run(ensemble_reduce, q, "mean")
    # mean/E of every member, times E: the mean for each
    apart = run(axpy, -float(members), run(ensemble_reduce_vjp, mean, shares), q)
    variance, _ = run(ensemble_reduce, run(product, apart, apart), "mean")
    return run(root, variance)
