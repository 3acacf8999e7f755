"""The didactic study's runs: an estimator on a field, its samples, and their distance to π."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.flow.distances import kl, quantile_noise, wasserstein_1
from qgf_ref.flow.gaussian_mixture import MixtureFlow
from qgf_ref.flow.quadrature import TiltedLaw
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.registry import estimator, estimator_names
from qgf_ref.nets.velocity import MLPVelocity, VelocityField
from qgf_ref.progress import tracked
from qgf_ref.sampling import Trace, sample, trace
from qgf_ref.studies.didactic.learned_flow import QUICK_UPDATES, UPDATES
from qgf_ref.studies.shared.scenes import SD, critics, exact_law, trimodal

R = TypeVar("R")

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
RANGE = (-3.0, 2.5)
"""Actions that figures show, which holds π whole; more than that left the data."""
BINS = np.linspace(*RANGE, 56)
"""Edges of a histogram's bins, 0.1 apart."""
BIN_NAMES = tuple(f"{edge:.1f}" for edge in BINS[:-1])
EXACT_LAW = "exact π"
PATHS = 40
ROLLOUT_LIMIT = 50
"""On the network, an estimator that rolls out to t = 1 at every step (T² evaluations) is run up to
this T: at 200 one law would take a minute and a half."""


@dataclass(frozen=True)
class DidacticGrid:
    """What is run.

    points      quantiles that stand for a law
    updates     of the learned velocity
    weights     w of the curves over w; shown, those of tables; panels, of panels
    steps       T of the curves over T, at w = middle
    few, many   T of the curves over w: `few` is the paper's, `many` near the continuous flow
    separations of the curves over the modes' separation, at w = middle and T = many
    """

    points: int = 500
    updates: int = UPDATES
    weights: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    shown: tuple[float, ...] = (0.1, 0.5, 2.0, 8.0)
    panels: tuple[float, ...] = (0.5, 2.0, 8.0)
    middle: float = 2.0
    steps: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200)
    few: int = 10
    many: int = 50
    separations: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


QUICK = DidacticGrid(
    points=250,
    updates=QUICK_UPDATES,
    weights=(0.1, 0.5, 2.0, 8.0),
    steps=(1, 2, 5, 10, 20),
    many=20,
    separations=(0.5, 1.0, 1.5),
)


def panel_columns(names: Sequence[str]) -> list[str]:
    """Those of the paper's Figure 2, or the first four of others."""
    return [name for name in ("none", "bptt", "ood", "qgf") if name in names] or list(names[:4])


def default_estimators() -> tuple[str, ...]:
    """Those of ESTIMATORS that are registered."""
    return tuple(name for name in ESTIMATORS if name in estimator_names())


class LawCase(NamedTuple):
    """One law: field "exact" or "learned", a critic of `scenes`, an estimator, w, T, separation."""

    field: str
    critic: str
    estimator: str
    weight: float
    T: int
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
    seen: dict[LawCase, Law] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, learned: MLPVelocity | None, names: Sequence[str] | None, points: int
    ) -> Laboratory:
        """names: as on the command line, or None for `default_estimators`.

        Raises InputError on an unknown estimator.
        """
        built = [estimator(name) for name in names or default_estimators()]
        return cls(learned, {e.label: e for e in built}, points)

    def flow(self, case: LawCase) -> GuidedFlow:
        """The case's field and critic, without an action bound."""
        return GuidedFlow(
            self._field(case), critics(case.separation)[case.critic], case.T, action_bound=None
        )

    def runs(self, case: LawCase) -> bool:
        """False for the oracle on the network, which it cannot guide, and beyond ROLLOUT_LIMIT."""
        if case.field == "exact":
            return True
        guide = self.estimators[case.estimator]
        products = guide.products(self.flow(case), 0)
        rolls_out = products is not None and products.field_forward > 1
        return guide.name != "oracle" and not (rolls_out and case.T > ROLLOUT_LIMIT)

    def law(self, case: LawCase) -> Law:
        """The law of this case, computed once."""
        if case not in self.seen:
            self.seen[case] = self._compute(case)
        return self.seen[case]

    def laws(self, cases: Iterable[LawCase]) -> dict[LawCase, Law]:
        """Those of the cases that run, with a progress bar."""
        wanted = [case for case in dict.fromkeys(cases) if self.runs(case)]
        return {case: self.law(case) for case in tracked(wanted, len(wanted), "law", title="laws")}

    def trace(self, case: LawCase, points: int) -> Trace | None:
        """Every quantity on the way from `points` quantiles, or None where it diverged."""
        with suppress(NonFiniteError):
            return self._from_quantiles(trace, case, points)
        return None

    def _from_quantiles(self, sampler: Callable[..., R], case: LawCase, points: int) -> R:
        """What `sample` or `trace` makes of them; raises NonFiniteError where it diverges."""
        noise, guide = quantile_noise(points), self.estimators[case.estimator]
        return sampler(
            self.flow(case), noise[:, :0], estimator=guide, weight=case.weight, noise=noise
        )

    def _field(self, case: LawCase) -> VelocityField:
        if case.field == "exact":
            return MixtureFlow(trimodal(case.separation))
        if self.learned is None or case.separation != 1.0:
            raise InputError(f"there is no network for {case}")
        return self.learned

    def _compute(self, case: LawCase) -> Law:
        try:
            a = self._from_quantiles(sample, case, self.points)[:, 0]
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


def rounded(x: Array) -> list[float]:
    """(N,) to four digits: what a figure can show."""
    return [float(f"{value:.4g}") for value in x]


def path_rows(head: Mapping[str, Any], paths: Array, far: Array | None = None) -> list[Any]:
    """Paths of a_t (T + 1, B) as a row for each t, a column for each path; `far` apart."""
    rows = []
    for k, x in enumerate(paths):
        row = {**head, "t": k / (len(paths) - 1)}
        row |= {f"path {i}": value for i, value in enumerate(rounded(x))}
        if far is not None:
            row |= {f"far {i}": value for i, value in enumerate(rounded(far[k]))}
        rows.append(row)
    return rows


@lru_cache(maxsize=64)
def target(critic: str, weight: float, separation: float = 1.0) -> TiltedLaw:
    """The exact π ∝ π̂·exp(w·Q)."""
    return exact_law(trimodal(separation), critics(separation)[critic], weight)


def table(laws: Mapping[LawCase, Law]) -> list[dict[str, Any]]:
    """One row for each law, for the CSV."""
    return [
        {
            **case._asdict(),
            "w1": law.w1,
            "kl": law.kl,
            "escaped": law.escaped,
            "largest_action": law.largest,
            "diverged": law.actions is None,
            "failure": law.failure,
        }
        for case, law in laws.items()
    ]


def density_table(lab: Laboratory, cases: Iterable[LawCase]) -> list[dict[str, Any]]:
    """The share of actions in each of BINS, by the bin's left edge: a row for each case that did
    not diverge, after one for each exact law among them, estimator EXACT_LAW.
    """
    rows: dict[LawCase, dict[str, Any]] = {}
    for case in cases:
        law, exact = lab.law(case), case._replace(field="", estimator=EXACT_LAW)
        if exact not in rows:
            pi = target(case.critic, case.weight, case.separation)
            rows[exact] = _density(exact, np.histogram(pi.nodes, BINS, weights=pi.mass)[0])
        if law.actions is not None:
            shares = np.histogram(law.actions, BINS)[0] / len(law.actions)
            rows[case] = _density(case, shares)
    return list(rows.values())


def _density(case: LawCase, shares: Array) -> dict[str, Any]:
    where = {"field": case.field, "critic": case.critic, "estimator": case.estimator}
    bins = dict(zip(BIN_NAMES, (round(float(x), 6) for x in shares), strict=True))
    return {**where, "weight": case.weight, **bins}


def path_table(lab: Laboratory, cases: Iterable[LawCase]) -> list[dict[str, Any]]:
    """PATHS paths of each case that did not diverge."""
    rows = []
    for case in cases:
        run = lab.trace(case, PATHS)
        if run is not None:
            head = {"field": case.field, "estimator": case.estimator, "weight": case.weight}
            rows += path_rows(head, path(run))
    return rows
