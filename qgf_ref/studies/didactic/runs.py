"""The didactic study's runs: an estimator on a field, its samples, and their distance to π."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from tqdm import tqdm

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.flow.distances import kl, quantile_noise, wasserstein_1
from qgf_ref.flow.gaussian_mixture import MixtureFlow
from qgf_ref.flow.quadrature import TiltedLaw
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.registry import estimator, estimator_names
from qgf_ref.nets.velocity import MLPVelocity, VelocityField
from qgf_ref.sampling import Trace, sample, trace
from qgf_ref.studies.shared.scenes import SD, critics, exact_law, trimodal

ESTIMATORS = (
    "none",
    "ood",
    "qgf",
    "qgf_chain",
    "bptt",
    "qgf_jacobian",
    "qgf_jacobian_scheduled",
    "qgf_covariance",
    "qgf_shifted",
    "oracle",
)
ESCAPE = 10 * SD
"""An action that is farther than this from every mode has left the data: under π̂ that has a
probability below 1e-22."""
ROLLOUT_LIMIT = 50
"""On the network, an estimator that rolls out to t = 1 at every step (T² evaluations) is run up to
this T: at 200 one law would take a minute and a half."""


def default_estimators() -> tuple[str, ...]:
    """Those of ESTIMATORS that are registered."""
    return tuple(name for name in ESTIMATORS if name in estimator_names())


@dataclass(frozen=True)
class Case:
    """One law: field "exact" or "learned", a critic of `scenes`, an estimator, w, T, separation."""

    field: str
    critic: str
    estimator: str
    weight: float
    steps: int
    separation: float = 1.0


@dataclass(frozen=True)
class Law:
    """What a case's sampler makes of the standard normal's quantiles.

    actions (B,) in the order of the noise, or None when it diverged: `sample` raised
    NonFiniteError, whose message is `failure`. w1 and kl as in `qgf_ref.flow.distances`, None then.
    escaped: share of actions farther than ESCAPE from every mode, 1 when it diverged.
    """

    actions: Array | None
    w1: float | None
    kl: float | None
    escaped: float
    failure: str = ""

    @property
    def largest(self) -> float | None:
        """max |a_1|."""
        return None if self.actions is None else float(abs(self.actions).max())


@dataclass(frozen=True)
class Laboratory:
    """The fields, the estimators by label, and the number of quantiles that stand for a law."""

    learned: MLPVelocity | None
    estimators: Mapping[str, Estimator]
    points: int
    seen: dict[Case, Law] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, learned: MLPVelocity | None, names: Sequence[str] | None, points: int
    ) -> Laboratory:
        """names: as on the command line, or None for `default_estimators`.

        Raises InputError on an unknown estimator.
        """
        built = [estimator(name) for name in names or default_estimators()]
        return cls(learned, {e.label: e for e in built}, points)

    def flow(self, case: Case) -> GuidedFlow:
        """The case's field and critic, without an action bound."""
        return GuidedFlow(
            self._field(case), critics(case.separation)[case.critic], case.steps, action_bound=None
        )

    def runs(self, case: Case) -> bool:
        """False for the oracle on the network, which it cannot guide, and beyond ROLLOUT_LIMIT."""
        if case.field == "exact":
            return True
        guide = self.estimators[case.estimator]
        products = guide.products(self.flow(case), 0)
        rolls_out = products is not None and products.field_forward > 1
        return guide.name != "oracle" and not (rolls_out and case.steps > ROLLOUT_LIMIT)

    def law(self, case: Case) -> Law:
        """The law of this case, computed once."""
        if case not in self.seen:
            self.seen[case] = self._compute(case)
        return self.seen[case]

    def laws(self, cases: Iterable[Case]) -> dict[Case, Law]:
        """Those of the cases that run, with a progress bar."""
        wanted = [case for case in dict.fromkeys(cases) if self.runs(case)]
        bar = tqdm(wanted, desc="laws", unit="law", disable=None)
        return {case: self.law(case) for case in bar}

    def trace(self, case: Case, points: int) -> Trace | None:
        """Every quantity on the way from `points` quantiles, or None where it diverged."""
        noise = quantile_noise(points)
        guide = self.estimators[case.estimator]
        try:
            return trace(
                self.flow(case), noise[:, :0], estimator=guide, weight=case.weight, noise=noise
            )
        except NonFiniteError:
            return None

    def _field(self, case: Case) -> VelocityField:
        if case.field == "exact":
            return MixtureFlow(trimodal(case.separation))
        if self.learned is None or case.separation != 1.0:
            raise InputError(f"there is no network for {case}")
        return self.learned

    def _compute(self, case: Case) -> Law:
        noise = quantile_noise(self.points)
        guide = self.estimators[case.estimator]
        try:
            a = sample(
                self.flow(case), noise[:, :0], estimator=guide, weight=case.weight, noise=noise
            )[:, 0]
        except NonFiniteError as error:
            return Law(None, None, None, 1.0, str(error))
        truth = target(case.critic, case.weight, case.separation)
        return Law(a, wasserstein_1(a, truth), kl(a, truth), escaped(a, case.separation))


def path(run: Trace) -> Array:
    """a_t at t = 0, 1/T, …, 1: (T + 1, B)."""
    return np.concatenate([run.a, run.action[None]])[:, :, 0]


def escaped(actions: Array, separation: float = 1.0) -> float:
    """Share of actions (B,) farther than ESCAPE from every mode."""
    centres = trimodal(separation).means[:, 0]
    return float((abs(actions[:, None] - centres).min(axis=1) > ESCAPE).mean())


@lru_cache(maxsize=64)
def target(critic: str, weight: float, separation: float = 1.0) -> TiltedLaw:
    """The exact π ∝ π̂·exp(w·Q)."""
    return exact_law(trimodal(separation), critics(separation)[critic], weight)


def table(laws: Mapping[Case, Law]) -> list[dict[str, Any]]:
    """One row for each law, for the CSV."""
    return [
        {
            "field": case.field,
            "critic": case.critic,
            "estimator": case.estimator,
            "weight": case.weight,
            "T": case.steps,
            "separation": case.separation,
            "w1": law.w1,
            "kl": law.kl,
            "escaped": law.escaped,
            "largest_action": law.largest,
            "diverged": law.actions is None,
            "failure": law.failure,
        }
        for case, law in laws.items()
    ]
