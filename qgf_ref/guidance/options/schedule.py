"""A guidance weight that changes with t."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.guidance.base import DenoisingStep, Guidance, GuidedFlow, Products
from qgf_ref.guidance.options.base import Wrapped, positive, with_gradient, words
from qgf_ref.ops.structure import scaled, zeros

Shape = Callable[[float, float], float]
"""(t, its number) → the factor s(t) of the weight."""


def prefix_weight(time: float, most: float) -> float:
    """min(most, (t² + (1 − t)²)/(t(1 − t))), and `most` at t = 0 and t = 1, where it is infinite.

    (1 − t)/t, which the exact guidance has (method.md, section 6), over r² = (1 − t)²/(t² +
    (1 − t)²), the variance of a_1 given a_t where a_1 ~ N(0, I). Source: real-time chunking, arXiv
    2506.07339, equations 2 to 4, with β for `most`.
    """
    left = 1 - time
    return min(most, (time**2 + left**2) / (time * left)) if 0 < time < 1 else most


SHAPES: dict[str, tuple[Shape, str, float | None]] = {
    "up": (lambda t, _: t, "t", None),
    "down": (lambda t, _: 1 - t, "1 − t", None),
    "cosine": (lambda t, _: (1 - math.cos(math.pi * t)) / 2, "(1 − cos πt)/2", None),
    "power": (lambda t, p: t**p, "t^{}", 2.0),
    "rtc": (prefix_weight, "min({}, (t² + (1−t)²)/(t(1−t)))", 5.0),
}
"""Name → s(t), its formula, and the default of its number, if it has one."""


@dataclass(frozen=True)
class Scheduled(Wrapped):
    """w·G ← w·s(t)·G: the weight w(t) = w·s(t).

    shape   up: t. down: 1 − t. cosine: (1 − cos πt)/2. power: t^number (default 2). rtc: real-time
            chunking's weight, cut at `number` (default 5), for the prefix critic
            (`qgf_ref.guidance.prefix`)
    An estimator whose G depends on the weight (`qgf_covariance`, `qgf_shifted`, `oracle`) is asked
    at w·s(t). Where s(t) = 0 the base is not asked. A gradient field where the base's G is one.
    Source: linear and cosine as in Wang et al. 2024, arXiv 2404.13040 (classifier-free guidance);
    rtc as in `prefix_weight`. Raises InputError on an unknown shape, or a number that it lacks.
    """

    shape: str = "up"
    number: float | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise unknown_name("schedule", self.shape, SHAPES)
        default = SHAPES[self.shape][2]
        if default is None and self.number is not None:
            raise InputError(f"the schedule {self.shape} takes no number, got {self.number!r}")
        if default is not None:
            chosen = default if self.number is None else self.number
            number = positive(chosen, f"schedule={self.shape},number: the number")
            object.__setattr__(self, "number", number)
        super().__post_init__()

    @property
    def option(self) -> str:
        """schedule=shape, and its number."""
        return f"schedule={self.shape}" + ("" if self.number is None else f",{words(self.number)}")

    @property
    def formula(self) -> str:
        """s(t)·G."""
        number = "" if self.number is None else f"{self.number:g}"
        return f"times {SHAPES[self.shape][1].format(number)}"

    def factor(self, time: float) -> float:
        """s(t)."""
        return float(SHAPES[self.shape][0](time, self.number or 0.0))

    def asks(self, time: float) -> bool:
        """Whether s(t) > 0."""
        return self.factor(time) > 0 and super().asks(time)

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """s(t)·G, of the base at the weight w·s(t)."""
        factor = self.factor(step.time)
        if not self.asks(step.time):
            return Guidance(flow.kernels(zeros, step.action))
        weight = step.weight
        if isinstance(weight, float | int):  # a scalar of NumPy's would widen float32
            weight = factor * weight
        else:
            weight = flow.kernels(scaled, factor, weight)
        guidance = self.first_order(flow, replace(step, weight=weight))
        return with_gradient(guidance, flow.kernels(scaled, factor, guidance.gradient))

    def products(self, flow: GuidedFlow, index: int) -> Products | None:
        """The base's, where s(t) > 0."""
        return super().products(flow, index) if self.asks(flow.times[index]) else Products()

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        """s(t)·Φ."""
        factor = self.factor(step.time)
        return self.scaled_potential(flow, replace(step, weight=step.weight * factor), factor)
