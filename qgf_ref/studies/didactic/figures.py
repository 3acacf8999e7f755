"""The didactic study's figures of laws: the paper's Figure 2, densities, and curves of distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.arrays import Array
from qgf_ref.plotting import dress, new_figure, style
from qgf_ref.sampling import Trace
from qgf_ref.studies.didactic.runs import Case, Laboratory, Law, path, target
from qgf_ref.studies.shared.scenes import FORMULAS

RANGE = (-3.0, 2.5)
"""Actions that figures show, which holds π whole; more than that left the data."""
BINS = np.linspace(*RANGE, 56)
"""Edges of a histogram's bins, 0.1 apart."""
PATHS = 40
METRICS = {"w1": "W1 to exact π (action units)", "kl": "KL(ρ ‖ π) (nats)"}
AXES = {
    "weight": "guidance weight w",
    "steps": "denoising steps T",
    "separation": "mode separation (×)",
}


class Shown(Protocol):
    """What the figures need of the study's grid (`qgf_ref.studies.didactic.study.Grid`)."""

    @property
    def panels(self) -> tuple[float, ...]:
        """Weights."""
        ...

    @property
    def middle(self) -> float:
        """w of the curves over T and separation."""
        ...

    @property
    def few(self) -> int:
        """The paper's T."""
        ...

    @property
    def many(self) -> int:
        """T near the continuous flow."""
        ...


def curves(laws: Mapping[Case, Law], metric: str, over: str, grid: Shown) -> Figure:
    """A metric (of METRICS) of every estimator over one of AXES: a column for each critic.

    A row for each field and T. Where a sampler diverged the curve has a gap and a × at the top.
    """
    by_axis: dict[str, list[tuple[str, int | None]]] = {
        "weight": [("exact", grid.many), ("exact", grid.few), ("learned", grid.few)],
        "steps": [("exact", None), ("learned", None)],
        "separation": [("exact", grid.many)],
    }
    settings = by_axis[over]
    figure = new_figure(11.0, 0.8 + 2.5 * len(settings))
    grids = figure.subplots(len(settings), len(FORMULAS), sharex=True, sharey="row", squeeze=False)
    for i, (field, steps) in enumerate(settings):
        for j, (critic, formula) in enumerate(FORMULAS.items()):
            axes = grids[i, j]
            chosen = {
                case: law
                for case, law in laws.items()
                if case.field == field
                and case.critic == critic
                and (over == "steps" or case.steps == steps)
                and (over == "weight" or case.weight == grid.middle)
                and (over == "separation" or case.separation == 1.0)
            }
            _curves(axes, chosen, metric, over)
            how = "" if steps is None else f", T = {steps}"
            fixed = "" if over == "weight" else f", w = {grid.middle:g}"
            last, first = i == len(settings) - 1, j == 0
            title = f"{formula}\n{field} velocity{how}{fixed}"
            dress(axes, title, AXES[over] if last else "", METRICS[metric] if first else "")
    _legend(figure, list(dict.fromkeys(case.estimator for case in laws)))
    return figure


def _curves(axes: Any, laws: Mapping[Case, Law], metric: str, over: str) -> None:
    for name in dict.fromkeys(case.estimator for case in laws):
        pairs = sorted((getattr(c, over), getattr(law, metric)) for c, law in laws.items()
                       if c.estimator == name)  # fmt: skip
        x = [at for at, _ in pairs]
        axes.plot(x, [np.nan if y is None else y for _, y in pairs], **style(name))
        for at, y in pairs:
            if y is None:
                axes.plot(at, 0.97, transform=axes.get_xaxis_transform(), marker="x",
                          color=style(name)["color"], clip_on=False)  # fmt: skip
    if over != "separation":
        axes.set_xscale("log")
    axes.set_yscale("log")
    if over == "weight":
        axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    elif over == "steps":
        axes.set_xticks([1, 10, 100], ["1", "10", "100"])


def panels(lab: Laboratory, field: str, names: Sequence[str], grid: Shown) -> Figure:
    """The paper's Figure 2: paths of a_t, and the final density beside the exact one (grey).

    A column for each estimator, a row for each weight; Q = −|a − a*|.
    """
    figure = new_figure(12.0, 2.6 * len(grid.panels))
    width = len(names)
    cells = figure.add_gridspec(len(grid.panels), 2 * width, width_ratios=[3, 1.2] * width)
    for i, weight in enumerate(grid.panels):
        for j, name in enumerate(names):
            case = Case(field, "distance", name, weight, grid.many)
            left = figure.add_subplot(cells[i, 2 * j])
            right = figure.add_subplot(cells[i, 2 * j + 1], sharey=left)
            law = lab.law(case)
            w1 = "diverged" if law.w1 is None else f"W1 {law.w1:.3f}"
            _paths(left, lab.trace(case, PATHS), name)
            _density(right, law.actions, case, flip=True)
            first, last = j == 0, i == len(grid.panels) - 1
            dress(left, f"{_title(name)}, w = {weight:g}: {w1}", "t" if last else "",
                  "a_t" if first else "")  # fmt: skip
            dress(right, "", "density" if last else "", "")
            left.set_ylim(RANGE)
            right.tick_params(labelleft=False)
    figure.suptitle(
        f"Q = −|a − a*|, a* = 1; {field} velocity, T = {grid.many}; grey: exact π", fontsize=11
    )
    return figure


def _paths(axes: Any, run: Trace | None, name: str) -> None:
    if run is None:
        axes.text(0.5, 0.5, "diverged", transform=axes.transAxes, ha="center")
        return
    a_t = path(run)
    times = np.linspace(0, 1, len(a_t))
    axes.plot(times, a_t, color=style(name)["color"], linewidth=0.6, alpha=0.7)
    outside = int(((a_t < RANGE[0]) | (a_t > RANGE[1])).any(axis=0).sum())
    if outside:
        axes.text(0.03, 0.03, f"{outside} of {a_t.shape[1]} leave the panel", fontsize=7,
                  transform=axes.transAxes,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _density(axes: Any, actions: Array | None, case: Case, flip: bool) -> None:
    """Histograms of the exact law, filled in grey, and of the estimator's, a line."""
    law = target(case.critic, case.weight, case.separation)
    width = BINS[1] - BINS[0]
    exact = np.histogram(law.nodes, BINS, weights=law.mass)[0] / width
    how = {"orientation": "horizontal" if flip else "vertical"}
    axes.stairs(exact, BINS, fill=True, color="#C8C8C8", **how)
    if actions is not None:
        found = np.histogram(actions, BINS)[0] / (width * len(actions))
        axes.stairs(found, BINS, color=style(case.estimator)["color"], linewidth=1.2, **how)


def densities(lab: Laboratory, critic: str, grid: Shown) -> Figure:
    """The final density of every estimator beside the exact one, exact velocity, T = many."""
    names = list(lab.estimators)
    figure = new_figure(9.0, 0.9 + 1.05 * len(names))
    cells = figure.subplots(len(names), len(grid.panels), sharex=True, sharey="col", squeeze=False)
    for i, name in enumerate(names):
        for j, weight in enumerate(grid.panels):
            axes = cells[i, j]
            case = Case("exact", critic, name, weight, grid.many)
            law = lab.law(case)
            _density(axes, law.actions, case, flip=False)
            found = "diverged" if law.w1 is None else f"W1 {law.w1:.3f}, KL {law.kl:.2f}"
            label = "" if j else f"{_title(name)}\n(density)"
            dress(axes, "", "action a_1" if i == len(names) - 1 else "", "")
            axes.set_title(f"w = {weight:g}: {found}{_beyond(law)}", fontsize=7.5, loc="left")
            axes.set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    figure.suptitle(
        f"{FORMULAS[critic]}, exact velocity, T = {grid.many}; grey: exact π", fontsize=11
    )
    return figure


def _beyond(law: Law) -> str:
    """What the panel's range cuts off."""
    if law.actions is None:
        return ""
    share = float(((law.actions < RANGE[0]) | (law.actions > RANGE[1])).mean())
    return f" ({share:.1%} not shown)" if share else ""


def _title(name: str) -> str:
    return {"none": "BC", "oracle": "oracle"}.get(name, name)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """One legend for all axes, beside them."""
    handles = [figure.axes[0].plot([], [], **style(name))[0] for name in names]
    labels = ["none (BC)" if name == "none" else name for name in names]
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
