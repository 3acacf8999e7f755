"""The figure of the study `scaling`: success, losses and speed along each ladder of sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import banded_line, dress, reach, style
from qgf_ref.studies.base import Rows, select
from qgf_ref.studies.scaling.sizes import GUIDED, TRAINED
from qgf_ref.studies.shared.figures import grid, legend, ticks

_METHODS = {"bc": "none", "qgf": "qgf", "edp": "edp"}
"""Methods, and the styles of their lines."""
_AGENTS = {GUIDED: "qgf", TRAINED: "edp"}


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """A row of panels for each ladder: success, held-out losses, updates a second."""
    ladders: Mapping[str, Sequence[str]] = about["ladders"]
    figure, panels = grid(len(ladders), 4, 2.9, 2.8, 1.2, sharey="col")
    for row, (ladder, sizes) in zip(panels, ladders.items(), strict=True):
        _success(row[0], ladder, [r for r in tables[""] if r["size"] in sizes])
        costs = [r for r in tables["costs"] if r["size"] in sizes]
        _losses(row[1], ladder, costs, "bc_loss", "cloning loss, held out")
        _losses(row[2], ladder, costs, "critic_loss", "critic's loss, held out")
        _speed(row[3], ladder, costs)
    seeds, episodes = len(about["seeds"]), tables[""][0]["episodes"]
    figure.suptitle(
        f"{about['task']}, {about['updates']:,} updates, {seeds} training seeds. Success: "
        f"{episodes} held-out episodes a point,\nband: Wilson's 95% over episodes, bars: Student's "
        "t over training seeds; losses: mean of the seeds, band: t",
        fontsize=9,
    )
    legend(figure, panels[0, 0])
    return {"": figure}


def _success(axes: Any, ladder: str, rows: Rows) -> None:
    for method, name in _METHODS.items():
        mine = sorted(select(rows, method=method), key=lambda r: r[ladder])
        look = {**style(name), "label": method if method != "bc" else "none"}
        x = [r[ladder] for r in mine]
        banded_line(axes, x, mine, "success", alpha=0.12, **look)
        for at, row in zip(x, mine, strict=True):
            ends = {**row, "seeds_success_low": max(row["seeds_success_low"], 0),
                    "seeds_success_high": min(row["seeds_success_high"], 1)}  # fmt: skip
            axes.errorbar(at, row["seeds_success"], yerr=reach(ends, "seeds_success"),
                          color=look["color"], elinewidth=0.7, capsize=2)  # fmt: skip
    _dress(axes, ladder, rows, "success")
    axes.set_ylim(-0.03, 1.03)


def _losses(axes: Any, ladder: str, rows: Rows, quantity: str, label: str) -> None:
    for agent, name in _AGENTS.items():
        mine = sorted(select(rows, agent=agent), key=lambda r: r[ladder])
        banded_line(axes, [r[ladder] for r in mine], mine, quantity, alpha=0.12, **style(name))
    _dress(axes, ladder, rows, label)


def _speed(axes: Any, ladder: str, rows: Rows) -> None:
    for agent, name in _AGENTS.items():
        mine = sorted(select(rows, agent=agent), key=lambda r: r[ladder])
        axes.plot([r[ladder] for r in mine], [r["updates_per_second"] for r in mine],
                  **style(name))  # fmt: skip
    _dress(axes, ladder, rows, "updates a processor second")
    axes.set_ylim(bottom=0)


def _dress(axes: Any, ladder: str, rows: Rows, label: str) -> None:
    fixed = "depth" if ladder == "width" else "width"
    dress(axes, "", f"{ladder} ({fixed} {rows[0][fixed]})", label, log="x")
    ticks(axes.xaxis, sorted({r[ladder] for r in rows}))
