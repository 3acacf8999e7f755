"""What the studies' figures share: grids of panels, lines with 95% bands, error bars, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from qgf_ref.plotting import GREY, banded_line, new_figure, style
from qgf_ref.studies.base import Rows, distinct, select

FEW = 9
"""More lines than this and a figure names those that it is about; the others are grey."""


def grid(
    rows: int, columns: int, width: float, height: float, margin: float = 1.8, **shared: Any
) -> tuple[Figure, Any]:
    """A figure of panels of width × height inches, with room for a legend at the right."""
    figure = new_figure(width * columns + margin, height * rows + 0.3)
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def looks(names: Sequence[str], focus: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """`Axes.plot`'s arguments for each name, label included: qgf on top; and where there are more
    than FEW, those outside `focus` grey, thin, behind, under one label.
    """
    crowded = len(names) > FEW and focus
    by_name, grey = {}, "the other estimators"
    for name in names:
        by_name[name] = {**style(name), "label": name, "zorder": 3.0 if name == "qgf" else 2.5}
        if crowded and name not in focus:
            by_name[name] |= {
                "color": GREY, "marker": "", "linestyle": "-", "linewidth": 0.8, "zorder": 1.5,
                "label": grey,
            }  # fmt: skip
            grey = "_nolegend_"
    return by_name


def lines(
    axes: Any,
    rows: Rows,
    x: str,
    *,
    by: str = "estimator",
    y: str = "value",
    names: Sequence[str] = (),
    focus: Sequence[str] = (),
    alpha: float = 0.12,
) -> None:
    """A line for each `by`, column y against column x, and its band between y's low and high.

    names  those of the legend, also without a row; default: those in the rows
    """
    for name, look in looks(names or distinct(rows, by), focus).items():
        mine = sorted(select(rows, **{by: name}), key=lambda r: r[x])
        banded_line(axes, [r[x] for r in mine], mine, y, alpha=alpha, **look)


def ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks of an axis at the values that were computed, and no others."""
    axis.set_ticks(values, labels=[f"{v:g}" for v in values])
    axis.set_ticks([], minor=True)


def plain_log(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each decade, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Any, **at: Any) -> None:
    """One legend for all panels, to the right of them, of what is drawn in `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    labels = ["none (BC)" if name == "none" else name for name in labels]
    figure.legend(
        handles, labels, **{"loc": "outside right center", "fontsize": 8, "frameon": False, **at}
    )
