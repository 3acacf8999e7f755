"""What the correction study samples: scenes whose tilted law is known, and errors of v and Q."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import NonFiniteError
from qgf_ref.flow.closed_form_critics import AnalyticCritic
from qgf_ref.flow.distances import quantile_noise, sliced_wasserstein, wasserstein_1
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.sampling import sample
from qgf_ref.studies.shared.problems import EXACT, Errors, Problem, with_errors
from qgf_ref.studies.shared.scenes import TRIMODAL, critics, exact_law

TRUE_ROWS = 4000
DIRECTIONS = 64
ANISOTROPY = 3.0
STEPS = 10
BASELINE = "qgf"
FREE_TIME = "qgf_shifted_taylor, free t′"
MORE_STEPS = "qgf, 3T steps"

CONDITIONS = {
    "exact": EXACT,
    "wrong v": Errors(field_amplitude=0.2),
    "wrong Q": Errors(critic_amplitude=0.3),
    "both wrong": Errors(field_amplitude=0.2, critic_amplitude=0.3),
}


@dataclass(frozen=True)
class Contender:
    """An estimator under its label, with `refine` times the steps of the others."""

    label: str
    estimator: Estimator
    refine: int = 1


@dataclass(frozen=True)
class TiltedScene:
    """A mixture and a critic whose tilted law is known: in one dimension, or Q quadratic."""

    name: str
    mixture: GaussianMixture
    critic: AnalyticCritic

    def flow(self, errors: Errors, steps: int, seed: int) -> GuidedFlow:
        """v and Q with one draw of their errors."""
        exact = GuidedFlow(MixtureFlow(self.mixture), self.critic, steps, action_bound=None)
        return with_errors(exact, errors, seed)

    def distance_to(self, weight: float, seed: int) -> Callable[[Array], float]:
        """The distance of actions (B, n) to π ∝ π̂·exp(w·Q), Q and π̂ without errors, in the
        action's unit: W1 in one dimension, else sliced W1 to draws of π.
        """
        if self.mixture.dim == 1:
            law = exact_law(self.mixture, self.critic, weight)
            return lambda actions: wasserstein_1(actions[:, 0], law)
        tilted = self.mixture.tilted(self.critic, weight)  # type: ignore[arg-type]
        rng = np.random.default_rng((seed, 7))
        true = tilted.sample(rng, TRUE_ROWS)
        return lambda actions: sliced_wasserstein(
            actions, true, np.random.default_rng((seed, 8)), DIRECTIONS
        )

    def noise(self, rows: int, seed: int) -> Array:
        """a_0 (rows, n): in one dimension the normal's quantiles, which are no draw."""
        if self.mixture.dim == 1:
            return quantile_noise(rows)
        return np.random.default_rng((seed, 9)).standard_normal((rows, self.mixture.dim))


def scenes() -> dict[str, TiltedScene]:
    """By name. `1-D` is that of method.md, section 6; n-D are those of the bias-variance study."""
    by_name = {}
    for n in (1, 2, 10):
        problem = Problem(n, 1.0, anisotropy=1.0 if n == 1 else ANISOTROPY)
        by_name[f"{n}-D"] = TiltedScene(f"{n}-D", problem.mixture, problem.critic)
    for name in ("distance", "bump"):
        by_name[f"1-D {name}"] = TiltedScene(f"1-D {name}", TRIMODAL, critics()[name])
    return by_name


def reached(
    scene: TiltedScene, flow: GuidedFlow, estimator: Estimator, weight: float, rows: int, seed: int
) -> Array | None:
    """The sampler's actions (rows, n), or None when it left the finite numbers."""
    unguided = estimator.name == "none"
    try:
        return sample(
            flow,
            np.zeros((rows, 0)),
            estimator=estimator,
            weight=None if unguided else weight,
            noise=scene.noise(rows, seed),
        )
    except NonFiniteError:
        return None
