"""How much G changes when a_t is perturbed: the paper's Figure 3, and what it leaves out.

    cosine   cos(G(s, a_t), G(s, a_t + σξ)), ξ ~ N(0, I), averaged over states and steps
    change   ‖G(s, a_t + σξ) − G(s, a_t)‖ over the mean ‖G‖ at that t

at the states of the denoising chain without guidance, with the same ξ for every σ and estimator.
A G that is the same everywhere would be perfectly insensitive and useless, so the study also says
how alike the gradients of *different* observations are. Source: method.md, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from qgf_ref.arrays import Array
from qgf_ref.audit.profile import NOISE_LEVELS, cosine, gradients_near
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.plotting import dress, legend_beside, new_figure
from qgf_ref.studies.base import Outcome, Rows, StudySettings
from qgf_ref.studies.shared.trained import (
    banded_line,
    chain,
    common_times,
    interval,
    interval_over,
    left_out,
    observations,
    over_time,
    usable_estimators,
)

SIGMAS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
PAPER = ("ood", "bptt", "qgf_jacobian")
"""What the paper's figure compares qgf with."""
SHOWN_BY_TIME = (0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Sensitivity:
    """One estimator on one checkpoint: cosine, change (S, T, B); norm ‖G‖ (T, B); between (T, B):
    the cosine of G with that of the next observation at the same t. NaN where G is zero.
    """

    cosine: Array
    change: Array
    norm: Array
    between: Array


def sensitivity(
    e: Estimator,
    flow: GuidedFlow,
    states: Sequence[DenoisingStep],
    xi: Array,
    sigmas: Sequence[float],
) -> Sensitivity:
    """Measure `e` at the T states. xi (T, B, D), standard normal."""
    G = gradients_near(e, flow, states, np.zeros_like(xi)).astype(np.float64)
    norm = np.linalg.norm(G, axis=-1)
    mean = norm.mean(axis=1)[:, None]
    cosines, changes = [], []
    for sigma in sigmas:
        near = gradients_near(e, flow, states, sigma * xi).astype(np.float64)
        moved = np.linalg.norm(near - G, axis=-1)
        cosines.append(cosine(G, near))
        changes.append(np.divide(moved, mean, out=np.full_like(moved, np.nan), where=mean > 0))
    between = cosine(G, np.roll(G, 1, axis=1))
    return Sensitivity(np.stack(cosines), np.stack(changes), norm, between)


@dataclass(frozen=True)
class Measured:
    """By estimator, one Sensitivity for each checkpoint; sigmas (S,), times (T,)."""

    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    by_estimator: dict[str, list[Sensitivity]]

    def estimate(self, name: str, measure: str, s: int, k: int | None = None) -> Estimate:
        """The mean of `measure` at sigma number s: at step k, or over all."""
        return interval([_rows(getattr(m, measure), s, k) for m in self.by_estimator[name]])

    def lead(self, other: str, s: int, k: int | None = None) -> Estimate:
        """The cosine of qgf minus that of `other`, state by state, where both have one."""
        pairs = zip(self.by_estimator["qgf"], self.by_estimator[other], strict=True)
        return interval([_rows(q.cosine - o.cosine, s, k) for q, o in pairs])


def _rows(x: Array, s: int, k: int | None) -> Array:
    return over_time(x[s]) if k is None else np.asarray(x[s, k])


def study(settings: StudySettings) -> Outcome:
    """`qgf-ref study noise`. Raises InputError as `observations` and `usable_estimators`."""
    sigmas = NOISE_LEVELS if settings.quick else SIGMAS
    count = 48 if settings.quick else 256
    times = common_times(settings)
    estimators, without = usable_estimators(settings)
    found: dict[str, list[Sensitivity]] = {e.label: [] for e in estimators}
    rows = []
    total = len(settings.checkpoints) * len(estimators)
    with tqdm(total=total, disable=None, unit="estimator") as bar:
        for c, checkpoint in enumerate(settings.checkpoints):
            flow = checkpoint.flow
            states = chain(flow, observations(settings, c, count), settings.seed)
            rng = np.random.default_rng((settings.seed, 21))
            xi = rng.standard_normal((len(states), *states[0].action.shape))
            xi = xi.astype(states[0].action.dtype)
            rows.append(len(states[0].action))
            for e in estimators:
                bar.set_postfix_str(e.label, refresh=False)
                found[e.label].append(sensitivity(e, flow, states, xi, sigmas))
                bar.update()
    measured = Measured(tuple(sigmas), times, found)
    leads = _leads(measured) if "qgf" in found and len(found) > 1 else []
    overall = _overall(measured)
    over = interval_over(settings)
    text = [
        f"G at a_t and a_t + σξ, ξ ~ N(0, I): {rows[0]} observations × {len(times)} BC steps,",
        f"{over}.",
        *left_out(without),
        "",
        *_cosine_table(measured, overall),
        "",
        *_norm_table(measured, overall),
        "",
        *(_verdict(measured, leads) if leads else ["Without qgf and another there is no claim."]),
    ]
    by_time = _by_time(measured)
    return Outcome(
        text="\n".join(text),
        tables={"": [*overall, *by_time], "norm": _norms(measured), "qgf_lead": leads},
        figures={"": _figure(measured, overall), "by_time": _time_figure(measured, by_time)},
        details={"sigmas": list(sigmas), "observations": rows, "intervals": over},
    )


def _overall(measured: Measured) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "measure": measure, "sigma": sigma, "time": "all"}
        | measured.estimate(name, measure, s)._asdict()
        for name in measured.by_estimator
        for measure in ("cosine", "change")
        for s, sigma in enumerate(measured.sigmas)
    ]


def _by_time(measured: Measured) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "measure": "cosine", "sigma": sigma, "time": t}
        | measured.estimate(name, "cosine", s, k)._asdict()
        for name in measured.by_estimator
        for s, sigma in enumerate(measured.sigmas)
        for k, t in enumerate(measured.times)
    ]


def _norms(measured: Measured) -> list[dict[str, Any]]:
    rows = []
    for name, found in measured.by_estimator.items():
        for k, t in enumerate(measured.times):
            norm = interval([m.norm[k] for m in found])
            between = interval([m.between[k] for m in found])
            rows += [
                {"estimator": name, "measure": "norm", "time": t} | norm._asdict(),
                {"estimator": name, "measure": "between", "time": t} | between._asdict(),
            ]
    return rows


def _leads(measured: Measured) -> list[dict[str, Any]]:
    """qgf's cosine minus every other's, over all t and at each."""
    return [
        {"other": name, "sigma": sigma, "time": "all" if k is None else measured.times[k]}
        | measured.lead(name, s, k)._asdict()
        for name in measured.by_estimator
        if name != "qgf"
        for s, sigma in enumerate(measured.sigmas)
        for k in (None, *range(len(measured.times)))
    ]


def _cosine_table(measured: Measured, overall: Rows) -> list[str]:
    shown = [s for s in measured.sigmas if s in NOISE_LEVELS]
    lines = ["cosine, over all t" + " " * 8 + "".join(f"{f'σ={s:g}':>9}" for s in shown)]
    for name in measured.by_estimator:
        mine = [r for r in overall if (r["estimator"], r["measure"]) == (name, "cosine")]
        values = {r["sigma"]: r["value"] for r in mine}
        lines.append(f"{name:26}" + "".join(f"{values[s]:9.4f}" for s in shown))
    return lines


def _norm_table(measured: Measured, overall: Rows) -> list[str]:
    lines = [
        f"{'at σ = 0.1':26}{'cosine [95%]':>26}{'change':>9}{'‖G‖':>9}{'cosine with another':>22}",
        f"{'':26}{'':26}{'':9}{'':9}{'observation’s G':>22}",
    ]
    at = {(r["estimator"], r["measure"]): r for r in overall if r["sigma"] == 0.1}
    for name, found in measured.by_estimator.items():
        c, change = at[name, "cosine"], at[name, "change"]
        norm = np.mean([m.norm.mean() for m in found])
        between = interval([over_time(m.between) for m in found]).value
        shown = f"{c['value']:.4f} [{c['low']:.4f}, {c['high']:.4f}]"
        lines.append(f"{name:26}{shown:>26}{change['value']:9.3f}{norm:9.3g}{between:22.3f}")
        zero = float(np.mean([(m.norm == 0).mean() for m in found]))
        if zero:
            lines.append(f"{'':26} G = 0, without a cosine and left out: {zero:.2%} of the states")
    return lines


def _verdict(measured: Measured, leads: Rows) -> list[str]:
    """Whether qgf is the least sensitive, from the intervals of the paired differences."""
    lines = []
    others = [n for n in measured.by_estimator if n != "qgf"]
    for title, names in (
        ("Against the paper's rivals", [n for n in others if n in PAPER]),
        ("Against the others", [n for n in others if n not in PAPER]),
    ):
        if not names:
            continue
        lines.append(f"{title} (qgf's cosine minus theirs, paired; and at how many σ, t):")
        for name in names:
            mine = [r for r in leads if r["other"] == name]
            overall = [r for r in mine if r["time"] == "all"]
            timed = [r for r in mine if r["time"] != "all"]
            biggest = max(overall, key=lambda r: abs(np.nan_to_num(r["value"])))
            worse = [r for r in timed if r["high"] < 0]
            better = sum(r["low"] > 0 for r in timed)
            at = ", ".join(f"{r['sigma']:g}" for r in overall if r["high"] < 0)
            lines.append(
                f"  {name:25} largest {biggest['value']:+.3f} [{biggest['low']:+.3f}, "
                f"{biggest['high']:+.3f}] at σ={biggest['sigma']:g}; ahead at {better}, behind "
                f"at {len(worse)} of {len(timed)}"
            )
            if at:
                lines.append(f"  {'':25} qgf is the more sensitive over all t at σ = {at}")
            elif worse:
                ts = ", ".join(f"{t:.2g}" for t in sorted({r["time"] for r in worse}))
                lines.append(f"  {'':25} behind at t = {ts}")
    everyone = [r for r in leads if r["time"] == "all"]
    rivals = [r for r in everyone if r["other"] in PAPER]
    return [*lines, *_claim("the paper's rivals", rivals), *_claim("every one here", everyone)]


def _claim(against: str, rows: Rows) -> list[str]:
    """The paper's statement in one sentence, by the intervals over all t."""
    lost = sorted({r["other"] for r in rows if r["high"] < 0})
    tied = sorted({r["other"] for r in rows if r["low"] <= 0 <= r["high"]} - set(lost))
    if not rows:
        verdict = "none of them was studied"
    elif lost:
        verdict = f"no; less sensitive at some σ: {', '.join(lost)}"
    elif tied:
        verdict = f"never behind; within the interval at some σ of: {', '.join(tied)}"
    else:
        verdict = "yes, at every σ over all t"
    return wrap(f'"QGF is least noise-sensitive" against {against}: {verdict}.', 98)


def _figure(measured: Measured, overall: Rows) -> Figure:
    figure = new_figure(10.4, 4.2)
    for axes, measure, y in zip(
        figure.subplots(1, 2),
        ("cosine", "change"),
        ("cos(G(a_t), G(a_t + σξ))", "‖G(a_t + σξ) − G(a_t)‖ / mean ‖G‖"),
        strict=True,
    ):
        for name in measured.by_estimator:
            rows = [r for r in overall if (r["estimator"], r["measure"]) == (name, measure)]
            banded_line(axes, name, measured.sigmas, rows)
        axes.set_xscale("log")
        if measure == "change":
            axes.set_yscale("log")
        dress(axes, "", "noise σ in a_t (normalised action units)", y)
    legend_beside(axes)
    figure.suptitle("Sensitivity of G to noise in a_t, over the BC chain (band: 95%)", fontsize=10)
    return figure


def _time_figure(measured: Measured, by_time: Rows) -> Figure:
    figure = new_figure(10.4, 3.8)
    panels = figure.subplots(1, len(SHOWN_BY_TIME), sharey=True)
    for axes, sigma in zip(panels, SHOWN_BY_TIME, strict=True):
        for name in measured.by_estimator:
            rows = [r for r in by_time if (r["estimator"], r["sigma"]) == (name, sigma)]
            banded_line(axes, name, measured.times, rows)
        dress(axes, f"σ = {sigma:g}", "t", "")
    panels[0].set_ylabel("cos(G(a_t), G(a_t + σξ))")
    legend_beside(panels[-1])
    return figure
