"""The closed-form scenes by name: the mixture with three modes, and critics to guide it."""

from __future__ import annotations

import numpy as np

from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import (
    AnalyticCritic,
    BumpCritic,
    DistanceCritic,
    QuadraticCritic,
)
from qgf_ref.flow.gaussian_mixture import GaussianMixture
from qgf_ref.flow.quadrature import TiltedLaw

WEIGHTS = (0.4, 0.3, 0.3)
MEANS = (-2.0, 0.0, 1.0)
SD = 0.15

BUMP_CENTRE = -1.0
"""Between two modes, where the data say nothing of Q."""
BUMP_HEIGHT = 2.0
BUMP_WIDTH = 0.3

MARGIN = 10.0
"""Standard deviations beyond the outer modes, and the optimum, that a tabulated law reaches."""


def trimodal(separation: float = 1.0) -> GaussianMixture:
    """The mixture of method.md, section 6, its means scaled by `separation`, its sd of 0.15 not.

    Raises InputError unless separation > 0.
    """
    if not separation > 0:
        raise InputError(f"separation must be > 0, got {separation}")
    return GaussianMixture.isotropic(WEIGHTS, separation * np.array(MEANS)[:, None], SD)


TRIMODAL = trimodal()


def critics(separation: float = 1.0) -> dict[str, AnalyticCritic]:
    """The critics of `trimodal(separation)` by name; a* is the mean of its right mode.

    distance   −|a − a*| (the paper's Figure 2)
    quadratic  −(a − a*)², whose tilt at w is method.md's −½(a − a*)² at 2w
    bump       −|a − a*| + a bump of height 2 and width 0.3 between the left modes: an error of Q
               where there are no data
    """
    optimum = separation * MEANS[-1]
    distance = DistanceCritic(optimum)
    return {
        "distance": distance,
        "quadratic": QuadraticCritic(np.array([optimum]), 2 * np.eye(1)),
        "bump": BumpCritic(distance, np.array([separation * BUMP_CENTRE]), BUMP_HEIGHT, BUMP_WIDTH),
    }


FORMULAS = {
    "distance": "Q = −|a − a*|",
    "quadratic": "Q = −(a − a*)²",
    "bump": "Q = −|a − a*| + bump",
}
"""What figures call the critics."""


def exact_law(mixture: GaussianMixture, critic: AnalyticCritic, weight: float) -> TiltedLaw:
    """π ∝ p·exp(w·Q) of a one-dimensional mixture, from 10 sd left of it to 10 sd right of it.

    weight 0 is the mixture itself. For the critics above, whose optimum is within that range.
    """
    centre = mixture.means[:, 0]
    reach = MARGIN * float(np.sqrt(mixture.covariances.max()))
    low, high = float(centre.min()) - reach, float(centre.max()) + reach
    return TiltedLaw.of(mixture.log_density, critic, weight, low, high)
