"""Figures of a sweep, drawn from its tables and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgf_ref.evaluation.aggregates import profile
from qgf_ref.evaluation.plots import base_and_draws, success_bars
from qgf_ref.plotting import GREY, Figure, dress, legend_beside, new_figure, reach, style
from qgf_ref.sweeps.table import LabelResults

_LIMITS = (-0.02, 1.02)
_MOST_LINES = 8
_LEVELS = np.linspace(0, 1, 101)


def bars(table: Sequence[Mapping[str, Any]], heading: str) -> Figure:
    """Success of every method: bar and thick line over episodes (Wilson), thin over seeds (t)."""
    figure = new_figure(7.2, 1.5 + 0.36 * len(table))
    axes = figure.add_subplot()
    success_bars(axes, table)
    for y, row in enumerate(table):
        axes.errorbar(row["success"], y, xerr=reach(row, "success"), linewidth=2.6, color="black")
        seeds = [max(row["seeds_success_low"], 0), min(row["seeds_success_high"], 1)]
        axes.plot(seeds, [y, y], color="black", linewidth=0.8)
        if row["optimistic"] is not None:
            axes.plot(row["optimistic"], y, "D", color="white", markeredgecolor="black")
    axes.set_yticks(range(len(table)), [_short(row) for row in table])
    said = "success; thick: 95% over episodes, thin: over training seeds; ◇ optimistic"
    dress(axes, heading, said, "")
    axes.grid(axis="y", visible=False)
    return figure


def profiles(played: Sequence[LabelResults], tasks: Sequence[str], heading: str) -> Figure:
    """Performance profiles: the share of runs (seeds × tasks) above each success rate."""
    figure = new_figure(7.6, 4.0)
    axes = figure.add_subplot()
    complete = [p for p in played if all(name in p.cells for name in tasks)]
    by_merit = sorted(complete, key=lambda p: -float(p.scores(tasks).mean()))
    shown = {p.label for p in by_merit[:_MOST_LINES]}
    for each in sorted(complete, key=lambda p: p.label in shown):
        share, low, high = profile(each.scores(tasks), _LEVELS)
        if each.label in shown:
            look = _line(each.label)
            axes.step(_LEVELS, share, where="post", label=each.label, **look)
            axes.fill_between(
                _LEVELS, low, high, step="post", color=look["color"], alpha=0.08, linewidth=0
            )
        else:
            axes.step(_LEVELS, share, where="post", color=GREY, linewidth=0.8)
    dress(axes, heading, "success τ", "share of runs with success > τ (band: 95%)")
    axes.set_ylim(*_LIMITS)
    legend_beside(axes)
    return figure


def against_compute(
    table: Sequence[Mapping[str, Any]], milliseconds: Mapping[str, float], heading: str
) -> Figure:
    """Success of every method against the time of its sampler for one chunk."""
    figure = new_figure(7.6, 4.0)
    axes = figure.add_subplot()
    for row in table:
        base, draws = base_and_draws(row["method"])
        look = style(base)
        axes.errorbar(
            milliseconds[row["method"]], row["success"],
            yerr=[[e[0]] for e in reach(row, "success")], color=look["color"],
            marker=look["marker"], markersize=6, linewidth=1.0, label=_short(row),
            markerfacecolor="white" if draws > 1 else look["color"],
        )  # fmt: skip
    dress(axes, heading, "milliseconds of the sampler a chunk", "success, 95% (episodes)", log="x")
    axes.set_ylim(*_LIMITS)
    legend_beside(axes)
    return figure


def _line(label: str) -> dict[str, Any]:
    base, draws = base_and_draws(label)
    look = {k: v for k, v in style(base).items() if k not in ("marker", "markersize")}
    return {**look, "linestyle": (0, (4, 2))} if draws > 1 else look


def _short(row: Mapping[str, Any]) -> str:
    partial = row["tasks"] < row["of_tasks"]
    return f"{row['method']} ({row['tasks']}/{row['of_tasks']})" if partial else str(row["method"])
