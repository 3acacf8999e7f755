"""Guidance no longer than a given norm."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import DenoisingStep, Guidance, GuidedFlow
from qgf_ref.guidance.options.base import Wrapped, positive, with_gradient, words
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.row_numbers import at_least, plus, ratio, root, row_dot
from qgf_ref.ops.structure import scaled

EPSILON = 1e-6


@dataclass(frozen=True)
class NormClipped(Wrapped):
    """G ← G·min(1, c/(‖G‖₂ + ε)), ε = 1e-6: of every row by its own norm, over the flat chunk.

    The rule of `torch.nn.utils.clip_grad_norm_` and its ε, which leaves a row of norm c a factor
    1 − ε/c short of itself, but per row: there the norm is over everything that it is given, so
    that a batch clipped at once has rows that depend on each other. w multiplies the result: the
    step's length is at most w·c/T beside that of v. No gradient field. Products: none of its own.
    Source: PyTorch, torch/nn/utils/clip_grad.py. Raises InputError unless max_norm c > 0.
    """

    max_norm: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", positive(self.max_norm, "norm=c: c"))
        super().__post_init__()

    @property
    def option(self) -> str:
        """norm=c."""
        return f"norm={words(self.max_norm)}"

    @property
    def formula(self) -> str:
        """With the bound."""
        return f"G·min(1, {self.max_norm:g}/(‖G‖ + 1e-6))"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The base's G, no row longer than c."""
        guidance = self.first_order(flow, step)
        factor = shrink(flow.kernels, guidance.gradient, self.max_norm)
        return with_gradient(guidance, flow.kernels(scaled, factor, guidance.gradient))


def shrink(run: Kernels, x: Array, most: float) -> Array:
    """min(1, most/(‖x‖ + ε)) of every row, (B, 1). x (B, D)."""
    norm = run(plus, run(root, run(row_dot, x, x)), EPSILON)
    # min(1, y) = −max(−1, −y)
    return run(scaled, -1.0, run(at_least, run(scaled, -1.0, run(ratio, most, norm)), -1.0))
