"""The 2×2 ablation where the truth is known: mixtures that reach past the action bound.

Three modes at reach·u, u uniform on ±[½, 1] in each coordinate, sd 0.25; Q = −½‖a − a*‖² with a*
uniform in the box. The exact law is the mixture tilted with Q, then clipped to ±1 [choice: Q acts
on the unclipped action, for which the tilt is closed-form], and the exact guidance that of the
unclipped tilt. With exact v and Q:

    bias      ‖c·G − g*‖ over ‖g*‖ (root mean squares), c the best constant: tuning w absorbs it
    sd        of c·G over draws of an error in Q, over ‖g*‖
    distance  sliced Wasserstein-1 between sampled actions (T = 10) and the clipped exact law, at
              the weight that is best on other samples
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.denoising import denoising_step
from qgf_ref.evaluation.statistics import Estimate, student_mean
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.flow.distances import sliced_wasserstein
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.oracle import Oracle
from qgf_ref.guidance.queries import one_step_estimate
from qgf_ref.guidance.registry import estimator
from qgf_ref.progress import Progress
from qgf_ref.sampling import sample
from qgf_ref.studies.ablation.factors import FOUR, factor_rows
from qgf_ref.studies.bias_variance.scores import score
from qgf_ref.studies.shared.problems import Errors, with_errors

STEPS = 10
SD = 0.25
WEIGHT = 2.0
ERRORS = Errors(critic_amplitude=0.2, critic_length=0.5)
"""Of Q, against a standard deviation of Q over the data of about 1."""
WEIGHT_FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
MEASURES = ("bias", "sd", "distance")


@dataclass(frozen=True)
class BoundedScene:
    """One random scene in n dimensions."""

    n: int
    reach: float
    seed: int

    @cached_property
    def flow(self) -> GuidedFlow:
        """Exact v and Q, actions clipped to ±1."""
        rng = np.random.default_rng((self.seed, self.n))
        # the same layout at every reach: a curve over reach compares like with like
        u = rng.uniform(0.5, 1.0, (3, self.n)) * rng.choice((-1, 1), (3, self.n))
        optimum = rng.uniform(-1, 1, self.n)
        mixture = GaussianMixture.isotropic((0.4, 0.3, 0.3), self.reach * u, SD)
        critic = QuadraticCritic(optimum, np.eye(self.n))
        return GuidedFlow(MixtureFlow(mixture), critic, STEPS, action_bound=1.0)

    @cached_property
    def tilted(self) -> GaussianMixture:
        """π ∝ π̂·exp(w·Q), not clipped."""
        field, critic = self.flow.field, self.flow.critic
        assert isinstance(field, MixtureFlow)
        assert isinstance(critic, QuadraticCritic)
        return field.mixture.tilted(critic, WEIGHT)

    def steps(self, flow: GuidedFlow, rows: int) -> list[DenoisingStep]:
        """States of the ideal sampler at each time: draws of the tilted law's marginal."""
        rng = np.random.default_rng((self.seed, self.n, 1))
        obs = np.zeros((rows, 0))
        return [
            denoising_step(flow, obs, self.tilted.at_time(t).sample(rng, rows), k, WEIGHT)
            for k, t in enumerate(flow.times)
        ]

    def clipped(self, rows: int) -> float:
        """The share of coordinates of the one-step estimate outside ±1."""
        free = replace(self.flow, action_bound=None)
        queries = [one_step_estimate(free, step).x for step in self.steps(self.flow, rows)]
        return float(np.mean([np.abs(x) > 1 for x in queries]))

    def exact_actions(self, rows: int, stream: int) -> Array:
        """Draws (rows, n) of the tilted law, clipped to ±1."""
        rng = np.random.default_rng((self.seed, self.n, 2, stream))
        return np.clip(self.tilted.sample(rng, rows), -1, 1)

    def bias_and_sd(self, rows: int, draws: int) -> dict[str, tuple[float, float]]:
        """By estimator: bias with exact Q, and sd with an error in Q."""
        steps = self.steps(self.flow, rows)
        truth = np.stack([Oracle()(self.flow, step).gradient for step in steps])
        noisy = [with_errors(self.flow, ERRORS, self.seed * 1009 + r) for r in range(draws)]
        by_name = {}
        for name in FOUR:
            e = estimator(name)
            exact = np.stack([e(self.flow, step).gradient for step in steps])
            errors = np.stack([[e(flow, step).gradient for step in steps] for flow in noisy])
            by_name[name] = (
                score(exact[None], truth).scaled_bias.value,
                score(errors, truth).scaled_sd.value,
            )
        return by_name

    def distances(self, rows: int, directions: int = 50) -> dict[str, tuple[float, float]]:
        """By estimator: distance to the clipped exact law at its chosen weight, and that weight.

        "none", the unguided flow, and "exact", other draws of the exact law, are there as well.
        """
        truths = [self.exact_actions(rows, stream) for stream in (0, 1)]

        def distance(name: str, weight: float, stream: int) -> float:
            rng = np.random.default_rng((self.seed, self.n, 3, stream))
            obs = np.zeros((rows, 0))
            actions = sample(self.flow, obs, estimator=name, weight=weight, rng=rng)
            return apart(actions, truths[stream])

        def apart(x: Array, y: Array) -> float:
            rng = np.random.default_rng((self.seed, 4))
            return sliced_wasserstein(x, y, rng, directions)

        by_name = {
            "none": (distance("none", 0.0, 1), 0.0),
            "exact": (apart(self.exact_actions(rows, 2), truths[1]), WEIGHT),
        }
        for name in FOUR:
            weights = [WEIGHT * factor for factor in WEIGHT_FACTORS]
            best = min(weights, key=lambda w, name=name: distance(name, w, 0))  # type: ignore[misc]
            by_name[name] = (distance(name, best, 1), best)
        return by_name


@dataclass(frozen=True)
class ClosedFormSize:
    """scenes, random ones for each n and reach; rows at each time, draws of the error in Q; samples
    for distances.
    """

    dimensions: tuple[int, ...] = (2, 10)
    reaches: tuple[float, ...] = (0.8, 1.1, 1.3, 1.5)
    scenes: int = 6
    rows: int = 128
    draws: int = 6
    samples: int = 1000

    @property
    def stages(self) -> int:
        """How many scenes there are in all."""
        return len(self.dimensions) * len(self.reaches) * self.scenes


def closed_form(size: ClosedFormSize, seed: int, job: Progress) -> list[dict[str, Any]]:
    """Long-form rows: the cells and effects of every measure by n and reach, with intervals over
    random scenes (Student's t), beside the share of clipped coordinates.
    """
    table: list[dict[str, Any]] = []
    for n, reach in product(size.dimensions, size.reaches):
        job.say(f"closed form: n={n} reach={reach:g}")
        y: dict[tuple[str, str], list[float]] = defaultdict(list)
        shares = []
        for i in range(size.scenes):
            job.advance()
            scene = BoundedScene(n, reach, 1000 * seed + i)
            shares.append(scene.clipped(size.rows))
            for name, (bias, sd) in scene.bias_and_sd(size.rows, size.draws).items():
                y["bias", name].append(bias)
                y["sd", name].append(sd)
            for name, (distance, weight) in scene.distances(size.samples).items():
                y["distance", name].append(distance)
                y["weight", name].append(weight)
        head = {"part": "closed form", "n": n, "reach": reach, "clipped": float(np.mean(shares))}
        for measure in MEASURES:
            cells = {name: [np.array(y[measure, name])] for name in FOUR}
            table += factor_rows(cells, _over_scenes, {**head, "measure": measure})
        for term in (("distance", "none"), ("distance", "exact"), *product(("weight",), FOUR)):
            where = dict(zip(("measure", "term"), term, strict=True))
            table.append({**head, **where, **student_mean(y[term])._asdict()})
    return table


def _over_scenes(values: list[Array]) -> Estimate:
    return student_mean(values[0])
