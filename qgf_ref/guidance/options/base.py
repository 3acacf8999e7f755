"""An estimator inside another: what the outer one has of the inner one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products


@dataclass(frozen=True)
class Wrapped(Estimator):
    """An estimator with an option: `base` is asked, and something done to its answer.

    Options compose, from the inside outwards: in "qgf+prefix=2/5+norm=1" the norm is that of the
    prefix. What `base` states of itself (name, weights, auxiliary network, whether it can be
    recorded, whether it takes complex a_t) holds of the whole; its label and formula gain the
    option's words. Query and q are the base's: what the critic was asked.
    """

    base: Estimator

    def __post_init__(self) -> None:
        if not isinstance(self.base, Estimator):
            raise InputError(
                f"{type(self).__name__} wraps an estimator, got {type(self.base).__name__}: "
                "qgf_ref.estimator(…) makes one of a name or a function"
            )
        stated: dict[str, Any] = {
            name: getattr(self.base, name)
            for name in ("name", "analytic", "recordable", "auxiliary", "default_weights")
        }
        stated["summary"] = f"{self.base.summary}; {self.formula}"
        for name, value in stated.items():
            object.__setattr__(self, name, value)

    @property
    def option(self) -> str:
        """The option as it is written after the estimator's name, without the +."""
        raise NotImplementedError

    @property
    def formula(self) -> str:
        """What is done to G, on one line."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The base's label and the option: a name that `qgf_ref.estimator` takes."""
        return f"{self.base.label}+{self.option}"

    def on(self, flow: GuidedFlow) -> GuidedFlow:
        """The flow that the base is sampled on."""
        return self.base.on(flow)

    def products(self, flow: GuidedFlow, index: int) -> Products | None:
        """Those of the base."""
        return self.base.products(flow, index)

    def asks(self, time: float) -> bool:
        """Whether the estimator within is asked at this time; where not, G is 0."""
        return self.base.asks(time) if isinstance(self.base, Wrapped) else True

    def first_order(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The base's answer. Raises InputError on one with an acceleration.

        That is the curvature of the path along the base's own G: of another G it is another.
        """
        guidance = self.base(flow, step)
        if guidance.acceleration is not None:
            raise InputError(
                f"{self.option} changes G, and {self.base.label} steps to second order along its "
                "own G: take qgf_shifted, which steps to first order"
            )
        return guidance

    def scaled_potential(
        self, flow: GuidedFlow, step: DenoisingStep, factor: float
    ) -> Array | None:
        """factor·Φ (B,) of the base's potential Φ, if it has one."""
        potential = self.base.potential(flow, step)
        return None if potential is None else factor * potential


def with_gradient(guidance: Guidance, gradient: Array) -> Guidance:
    """The same answer with another G."""
    return replace(guidance, gradient=gradient)


def positive(value: Any, what: str) -> float:
    """`value` as a float. Raises InputError unless it is a finite number > 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise InputError(f"{what} must be a number > 0, got {value!r}")
    return float(value)


def words(number: float) -> str:
    """A number as it is written in a label: short, the same when it is read again, without a +."""
    short = f"{number:g}"
    return (short if float(short) == number else repr(number)).replace("e+", "e")
