"""How strong guidance is: w‖G‖ beside ‖v‖, and what it gains beside as long a random direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.chain import ChainGradients
from qgf_ref.audit.final_values import FinalValues
from qgf_ref.audit.on_engine import REFERENCE, for_each
from qgf_ref.backends.engine import Engine
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.tables import Table

WEAK = 1e-3
"""Share of the velocity below which guidance is said to do nothing."""
SHOWN_STEPS = 5
"""Of a table's columns."""


@dataclass(frozen=True, eq=False)
class RandomDirection(Estimator):
    """A control: random directions as long as some G was, lengths (T, B), at each step and row."""

    lengths: Array
    seed: int

    name: ClassVar[str] = "random_direction"
    summary: ClassVar[str] = "‖G‖·ξ/‖ξ‖, ξ ~ N(0, I)"

    @classmethod
    def beside(cls, gradients: Array, seed: int) -> RandomDirection:
        """As long as these, (T, B, D)."""
        return cls(np.linalg.norm(gradients, axis=-1), seed)

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """One ξ for each step and row."""
        xi = np.random.default_rng((self.seed, step.index)).standard_normal(step.action.shape)
        size = self.lengths[step.index] / np.linalg.norm(xi, axis=1)
        return Guidance((size[:, None] * xi).astype(step.action.dtype))


class Gain(NamedTuple):
    """A mean over rows, and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, each: Array) -> Gain:
        """Of one number a row, (B,)."""
        return cls(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))))


@dataclass(frozen=True)
class Strength:
    """One estimator's guidance at one weight w.

    ratio (T,): median over rows of w‖G‖/‖v‖, by step of the unguided chain; gain: Q of the final
    action less that of the unguided one; control: the same with random directions of the lengths
    that G has on that chain; lead: gain less control, row by row
    """

    ratio: list[float]
    gain: Gain
    control: Gain
    lead: Gain

    @property
    def weak(self) -> bool:
        """Whether w‖G‖ is nowhere more than a trace of ‖v‖."""
        return max(self.ratio) < WEAK


def ratios(gradients: Array, velocities: Array, weight: float) -> list[float]:
    """Median over rows of w‖G‖/‖v‖, by step. gradients, velocities (T, B, D)."""
    speed = np.maximum(np.linalg.norm(velocities, axis=-1), np.finfo(float).tiny)
    ratio = weight * np.linalg.norm(gradients, axis=-1) / speed
    return [float(r) for r in np.median(ratio, axis=1)]


def strengths(
    flow: GuidedFlow,
    chain: ChainGradients,
    estimators: list[Estimator],
    weight: float,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
    engine: Engine = REFERENCE,
    final: FinalValues | None = None,
) -> dict[str, Strength]:
    """Of each estimator, at the chain's observations and noise; final as in `profile`."""
    final = final or FinalValues(flow, chain, engine)
    velocities = np.stack([step.velocity for step in chain.states])

    def control(e: Estimator) -> Array:
        random = RandomDirection.beside(chain.gradients[e.label], seed)
        return final.sampled(random, weight, REFERENCE)

    controls, result = for_each(estimators, control, final.threads), {}
    for e in estimators:
        progress(f"(c) strength of {e.label}")
        q, beside, unguided = final.of(e, [weight])[0], controls[e.label], final.unguided
        result[e.label] = Strength(
            ratios(chain.gradients[e.label], velocities, weight),
            *(Gain.of(each) for each in (q - unguided, beside - unguided, q - beside)),
        )
    return result


def shown_steps(count: int) -> list[int]:
    """At most SHOWN_STEPS of `count` steps, the first and the last among them."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, SHOWN_STEPS)).round()})


def strength_rows(strength: Mapping[str, Strength], times: tuple[float, ...]) -> Table:
    """The table of w‖G‖/‖v‖ at some steps, and of the gains: header and rows."""
    steps = shown_steps(len(times))
    header = ["w‖G‖/‖v‖", *(f"t = {times[k]:.2g}" for k in steps), "ΔQ", "control"]
    return header, [
        [
            label,
            *(f"{s.ratio[k]:.2g}" for k in steps),
            *(f"{gain.mean:+.2f} ± {gain.error:.2f}" for gain in (s.gain, s.control)),
        ]
        for label, s in strength.items()
    ]


def strength_note(weight: float) -> str:
    """What the columns of that table are."""
    return (
        f"At w = {weight:g}: medians of w‖G‖/‖v‖ at some steps of the unguided chain; ΔQ: what "
        "guidance adds to the critic's value of the final actions (± its standard error); control: "
        "the same with random directions, as long as G is on that chain."
    )


def weak_line(label: str, ratio: list[float]) -> str:
    """Of guidance that is too short to matter."""
    return f"{label} does next to nothing at this weight: w‖G‖ is at most {max(ratio):.1g} of ‖v‖"


def strength_lines(strength: Mapping[str, Strength]) -> list[str]:
    """Who is too short to matter, and whose gain is not told from a random direction's."""
    lines = [weak_line(label, s.ratio) for label, s in strength.items() if s.weak]
    alike = [label for label, s in strength.items() if s.lead.mean < 2 * s.lead.error]
    if alike:
        lines.append(
            f"The gain in Q of {', '.join(alike)} is not told from that of random directions of "
            "the same length."
        )
    return lines
