"""The audit of a flow whose networks are somebody's own: nothing is known of their inside.

Its networks' products are checked (`qgf_ref.audit.flow_contract`), then the estimators are profiled
on their behaviour-cloning chain. Everything is counted in calls of a network with all rows, since
one may take seconds, and stops at a budget: the report says what it did not come to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest import SkipTest

import numpy as np

from qgf_ref.arrays import Array, whole_number
from qgf_ref.audit.by_oracle import standing_still, typical_curl
from qgf_ref.audit.chain import ChainGradients
from qgf_ref.audit.flow_contract import (
    CHECKS,
    FlowTrial,
    derivative_check,
    direction,
    flow_clauses,
    has_critic,
    require_derivative,
    require_rows,
)
from qgf_ref.audit.flow_report import EstimatorProfile, FlowReport
from qgf_ref.audit.profile import cosine
from qgf_ref.audit.strength import RandomDirection, ratios
from qgf_ref.contracts import Broken, ContractError, Unchecked
from qgf_ref.denoising import denoising_step
from qgf_ref.errors import BudgetSpent, InputError, QGFError
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.counting import ProductCounter, counted
from qgf_ref.guidance.qgf_jacobian_ortho import one_step_jacobian
from qgf_ref.guidance.queries import Query, critic_value
from qgf_ref.guidance.registry import EstimatorLike, estimator
from qgf_ref.nets.products import MissingProduct
from qgf_ref.progress import progress
from qgf_ref.sampling import sample
from qgf_ref.threads import one_blas_thread
from qgf_ref.user_code import error_summary

BUDGET = 3000
ROWS = 16
NOISE = 0.1
PAIRS = 4
"""Pairs of directions by which the curl is estimated."""
MOST_COLUMNS = 64
"""Largest D of which all singular values are computed: D vjps at each of three steps."""


class Meter(ProductCounter):
    """Counts calls, and raises BudgetSpent beyond `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.total = limit, 0

    def lift(self) -> None:
        """Set no limit any more: what is known is reported whatever it costs."""
        self.limit = sys.maxsize

    def add(self, name: str) -> None:
        """Count one."""
        if self.total >= self.limit:
            raise BudgetSpent(f"{self.limit} calls are spent")
        self.total += 1
        super().add(name)


@one_blas_thread()
def audit_flow(
    flow: GuidedFlow,
    obs: Array,
    estimators: Sequence[EstimatorLike],
    *,
    weight: float = 0.1,
    seed: int = 0,
    budget: int = BUDGET,
    show_progress: bool = True,
) -> FlowReport:
    """Audit a flow of anybody's networks at obs (B, O), of which the first 16 are used.

    estimators  names, or as `sample` takes them
    weight   of the guidance whose strength and effect are measured
    budget   ≥ 1: calls of a network, with all rows: forwards and products alike
    Whatever fails on the way, or Ctrl-C, costs no result that is known by then: the report has
    what broke (`FlowReport.broken`), and what was not come to (`skipped`, `interrupted`).
    What takes a look inside the networks (parameters, layers, float32 against float64) is left to
    `audit`, which takes a checkpoint.
    Raises InputError on observations that do not fit, estimators that share a name, a weight that
    is not ≥ 0, and a budget of nothing.
    """
    begun, meter = time.perf_counter(), Meter(budget)
    obs = require_rows(flow, obs)[:ROWS].astype(flow.field.dtype)
    named = [estimators] if isinstance(estimators, str) else estimators
    chosen = [estimator(e) for e in named]
    labels = [e.label for e in chosen]
    if len(set(labels)) < len(labels):
        raise InputError(f"each estimator can be audited once; got {', '.join(labels)}")
    if not (isinstance(weight, int | float | np.number) and 0 <= weight < np.inf):
        raise InputError(f"weight must be a number ≥ 0, got {weight!r}")
    whole_number(budget, "budget", 1)
    guided = [e for e in chosen if e.name != "none"]
    report = FlowReport(repr(flow), {"rows": len(obs), "weight": weight, "budget": budget})
    watched = counted(flow, meter)[0]
    audit = _FlowAudit(report, watched, obs, guided, weight, seed, meter)
    stages = audit.stages(FlowTrial.of(watched, obs, flow, seed))
    with progress(len(stages), "stage", leave=False, show=show_progress) as shown:
        for name, stage in stages.items():
            shown.say(name)
            try:
                stage()
            except BudgetSpent:
                report.skipped.append(name)
            except MissingProduct as error:
                report.unchecked[name] = str(error)
            except KeyboardInterrupt:
                report.interrupted = name
                break
            except QGFError as error:
                report.broken.append(f"{name}: {error}")
            except Exception as error:  # noqa: BLE001  (somebody's network: the rest is reported)
                report.broken.append(f"{name}: {error_summary(error)}")
            shown.advance()
    report.calls, report.seconds = meter.total, time.perf_counter() - begun
    return report


@dataclass
class _FlowAudit:
    report: FlowReport
    flow: GuidedFlow
    obs: Array
    guided: list[Estimator]
    weight: float
    seed: int
    meter: Meter
    chain: ChainGradients | None = None

    def stages(self, trial: FlowTrial) -> dict[str, Callable[[], None]]:
        """What is done, by name, the cheapest and most telling first."""
        jobs: dict[str, Callable[[], None]] = {"networks": lambda: self._networks(trial)}
        if not has_critic(trial.own):
            return jobs
        jobs["gradients on the chain"] = self._gradients
        for e in self.guided:
            jobs[f"final Q of {e.label}"] = lambda e=e: self._final(e)  # type: ignore[misc]
        for e in self.guided:
            jobs[f"noise of {e.label}"] = lambda e=e: self._noise(e)  # type: ignore[misc]
            jobs[f"curl of {e.label}"] = lambda e=e: self._curl(e)  # type: ignore[misc]
        jobs["singular values"] = self._singular
        return jobs

    def _networks(self, trial: FlowTrial) -> None:
        clauses = flow_clauses(trial)
        self.report.expected = [clause.name for clause in clauses]
        for clause in clauses:
            try:
                if clause.name in CHECKS:
                    check = derivative_check(trial, clause.name)
                    self.report.checks.append(check)
                    require_derivative(trial, clause.name, check)
                else:
                    clause()
                self.report.held.append(clause.name)
            except (SkipTest, Unchecked) as nothing:
                self.report.unchecked[clause.name] = str(nothing.__cause__ or nothing)
            except (ContractError, Broken) as broken:
                if isinstance(broken.__cause__, BudgetSpent):
                    raise broken.__cause__ from broken
                self.report.broken.append(str(broken))
            except BudgetSpent:
                raise
            except Exception as error:  # noqa: BLE001  (of a product: the other clauses go on)
                self.report.broken.append(f"{clause.name}: {error_summary(error)}")
        self.report.direction = direction(trial)

    def _gradients(self) -> None:
        T = self.flow.denoise_steps
        able = []
        for e in list(self.guided):
            row = self.report.estimators[e.label] = EstimatorProfile()
            try:
                step = denoising_step(self.flow, self.obs, self._noise_of(0), T // 2, self.weight)
                self.meter.take()
                e.on(self.flow)
                e(self.flow, step)
                row.products = str(self.meter.take())
                able.append(e)
            except InputError as error:
                row.says = str(error)
        self.guided[:] = able
        self.chain = ChainGradients.of(self.flow, self.obs, able, self.seed)
        velocity = np.stack([s.velocity for s in self.chain.states])
        for e in able:
            g, row = self.chain.gradients[e.label], self.report.estimators[e.label]
            row.norm = np.median(np.linalg.norm(g, axis=-1), axis=1).tolist()
            row.strength = ratios(g, velocity, self.weight)
            if "qgf" in self.chain.gradients:
                row.cos = _mean(cosine(g, self.chain.gradients["qgf"]))

    def _row(self, e: Estimator) -> EstimatorProfile | None:
        """Where its numbers go; None where its gradients are not known."""
        return self.report.estimators.get(e.label) if e in self.guided and self.chain else None

    def _noise_of(self, stream: int) -> Array:
        rng = np.random.default_rng((self.seed, 7, stream))
        shape = len(self.obs), self.flow.field.action_dim
        return rng.standard_normal(shape).astype(self.flow.field.dtype)

    def _q(self, e: Estimator | str) -> float:
        assert self.chain is not None
        action = sample(
            self.flow, self.obs, estimator=e, weight=self.weight, noise=self.chain.noise
        )
        return float(critic_value(self.flow, self.obs, action).mean())

    def _final(self, e: Estimator) -> None:
        row = self._row(e)
        if row is None or self.chain is None:
            return
        if self.report.unguided is None:
            self.report.unguided = self._q("none")
        row.q = self._q(e)
        gradients = self.chain.gradients[e.label]
        row.control = self._q(RandomDirection.beside(gradients, self.seed))

    def _noise(self, e: Estimator) -> None:
        row = self._row(e)
        if row is None or self.chain is None:
            return
        dtype, near = self.flow.field.dtype, []
        for step, epsilon in zip(self.chain.states, self.chain.epsilon, strict=True):
            moved = (step.action + NOISE * epsilon).astype(dtype)
            near.append(self._gradient(e, step, moved))
        cosines = cosine(self.chain.gradients[e.label], np.stack(near))
        row.noise = _mean(cosines)

    def _gradient(self, e: Estimator, step: DenoisingStep, action: Array) -> Array:
        there = denoising_step(self.flow, step.obs, action, step.index, step.weight)
        return np.asarray(e(self.flow, there).gradient)

    def _curl(self, e: Estimator) -> None:
        row = self._row(e)
        if row is None or self.chain is None:
            return
        step = self.chain.states[self.flow.denoise_steps // 2]
        dtype, rng = self.flow.field.dtype, np.random.default_rng((self.seed, 8))
        # shorter than differences alone would want it: a clip's kink within h spoils a row
        h = float(np.sqrt(np.finfo(dtype).eps))

        def along(x: Array) -> Array:
            up, down = (self._gradient(e, step, (step.action + s * h * x).astype(dtype))
                        for s in (1, -1))  # fmt: skip
            return (up.astype(float) - down) / (2 * h)

        skew, whole = np.zeros((2, len(step.action)))
        for _ in range(PAIRS):
            x, y = rng.standard_normal((2, *step.action.shape))
            across, back = (x * along(y)).sum(axis=1), (y * along(x)).sum(axis=1)
            skew += (across - back) ** 2
            whole += (across + back) ** 2
        each = np.sqrt(np.divide(skew, whole, out=np.full_like(skew, np.nan), where=whole > 0))
        row.curl = typical_curl(each)
        if np.isnan(each).any():
            row.still = standing_still(int(np.isnan(each).sum()), len(each))

    def _singular(self) -> None:
        D, T = self.flow.field.action_dim, self.flow.denoise_steps
        if D > MOST_COLUMNS:
            self.report.skipped.append(f"singular values (D = {D} > {MOST_COLUMNS})")
            return
        if self.chain is None:
            return
        for k in sorted({0, T // 2, T - 1}):
            step = self.chain.states[k]
            J = one_step_jacobian(self.flow, step, Query(step.action, None))
            values = np.linalg.svd(J, compute_uv=False)
            least, most = np.median(values[:, -1]), np.median(values[:, 0])
            self.report.singular[k] = float(least), float(most)


def _mean(x: Array) -> float | None:
    finite = x[np.isfinite(x)]
    return float(finite.mean()) if finite.size else None
