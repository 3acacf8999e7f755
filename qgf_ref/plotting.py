"""One look for every figure: an estimator has the same colour-blind-safe colour everywhere."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from qgf_ref.errors import missing_package

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # for annotations: Matplotlib is imported when the first figure is drawn


GREY = "#B4B4B4"
"""Of lines that a figure is not about."""


class LineStyle(NamedTuple):
    """Colour (Okabe and Ito's palette, then Tol's), dash pattern and marker of one estimator."""

    color: str
    linestyle: Any
    marker: str


ESTIMATOR_STYLES = {
    "none": LineStyle("#7F7F7F", "-", "."),
    "ood": LineStyle("#E69F00", "-", "o"),
    "qgf": LineStyle("#0072B2", "-", "s"),
    "qgf_masked": LineStyle("#56B4E9", "--", "s"),
    "qgf_chain": LineStyle("#009E73", "-", "^"),
    "bptt": LineStyle("#CC79A7", "-", "v"),
    "qgf_jacobian": LineStyle("#D55E00", "-", "D"),
    "qgf_jacobian_unmasked": LineStyle("#D55E00", "--", "x"),
    "qgf_jacobian_scheduled": LineStyle("#D55E00", ":", "*"),
    "qgf_jacobian_regularized": LineStyle("#000000", "--", "+"),
    "qgf_jacobian_ortho": LineStyle("#000000", ":", "p"),
    "qgf_jacobian_smooth": LineStyle("#000000", "-.", "h"),
    "qgf_covariance": LineStyle("#117733", "-", "X"),
    "robust_q": LineStyle("#999933", "-", "<"),
    "cfgrl": LineStyle("#AA4499", "-.", ">"),
    "qgf_distill": LineStyle("#009E73", "--", "d"),
    "qgf_jacobian_distill": LineStyle("#009E73", ":", "H"),
    "qgf_shifted": LineStyle("#882255", "-", "d"),
    "qgf_shifted_taylor": LineStyle("#882255", "--", "<"),
    "gradstep": LineStyle("#332288", "-", "P"),
    "edp": LineStyle("#DDCC77", "-", "o"),
    "fql": LineStyle("#88CCEE", "-", "s"),
    "qam": LineStyle("#661100", "-", "^"),
    "dac": LineStyle("#44AA99", "-", "v"),
    "qsm": LineStyle("#6699CC", "--", "D"),
    "oracle": LineStyle("#000000", "-", "."),
}
"""Given, so that figures of different runs agree; any other name has a style derived from it."""


def _derived(name: str) -> LineStyle:
    number = crc32(name.encode())
    listed = list(ESTIMATOR_STYLES.values())
    color = listed[number % len(listed)].color
    return LineStyle(color, (0, (3, 1, 1, 1)), "1234"[number // len(listed) % 4])


def style(estimator: str) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for this estimator's line, the same in every run."""
    line = ESTIMATOR_STYLES.get(estimator) or _derived(estimator)
    return {**line._asdict(), "markersize": 4, "linewidth": 1.4}


_own_look = ContextVar("own look", default=False)


@contextmanager
def own_look() -> Iterator[None]:
    """While active, figures look as Matplotlib's defaults say, not as a matplotlibrc or MPLBACKEND
    of the user does, which may ask for what this machine lacks (LaTeX, a window).
    """
    kept = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    token = _own_look.set(True)
    try:
        yield
    finally:
        _own_look.reset(token)
        if kept is None:
            os.environ.pop("MPLBACKEND", None)
        else:
            os.environ["MPLBACKEND"] = kept


@lru_cache(maxsize=1)
def can_draw() -> bool:
    """Whether Matplotlib is installed; where it is not, says once that there will be no figures."""
    if find_spec("matplotlib") is not None:
        return True
    print(f"no figures: {missing_package('matplotlib')}", file=sys.stderr)
    return False


def new_figure(width: float = 7.2, height: float = 3.8) -> Figure:
    """A figure without global state, its layout kept free of overlaps."""
    from matplotlib import rcdefaults
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if _own_look.get():
        rcdefaults()
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any, title: str, x: str, y: str, log: str = "") -> None:
    """Title, axis labels and a light grid; `log`: the axes that are logarithmic, as "x" or "xy"."""
    for axis in log:
        axes.set(**{f"{axis}scale": "log"})
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def banded_line(
    axes: Any,
    x: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    y: str = "value",
    *,
    alpha: float = 0.12,
    band: bool = True,
    **look: Any,
) -> None:
    """Column y of the rows against x, and a band between its low and high unless it is grey."""
    axes.plot(x, [r[y] for r in rows], **look)
    if band and rows and ends(y)[0] in rows[0] and look["color"] != GREY:
        low, high = ([r[end] for r in rows] for end in ends(y))
        axes.fill_between(x, low, high, color=look["color"], alpha=alpha, linewidth=0)


def ends(y: str) -> tuple[str, str]:
    """The columns of an estimate's interval: low and high of "value", else NAME_low, NAME_high."""
    return ("low", "high") if y == "value" else (f"{y}_low", f"{y}_high")


def reach(row: Mapping[str, Any], y: str = "value") -> list[list[float]]:
    """`Axes.errorbar`'s xerr or yerr of one estimate. A percentile interval need not hold the mean
    of few, skewed values.
    """
    low, high = ends(y)
    return [[max(row[y] - row[low], 0)], [max(row[high] - row[y], 0)]]


def legend_beside(axes: Any) -> None:
    """A legend to the right of the axes, where it covers no data."""
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return _saved(figure, format="png", dpi=130)


def pdf(figure: Figure) -> bytes:
    """The figure as a PDF file, the same bytes for the same figure."""
    return _saved(figure, format="pdf", metadata={"CreationDate": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    """The file, wider than asked for where a title or a legend would be cut off: the layout makes
    room for axes and their labels only.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    if min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) < -0.5 / figure.dpi:
        buffer = io.BytesIO()
        figure.savefig(buffer, bbox_inches="tight", pad_inches=0.08, **options)
    return buffer.getvalue()
