"""The figure of the study `weights`: one panel an estimator."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Evaluation
from qgf_ref.plotting import dress, new_figure, style

_LIMITS = (-0.04, 1.06)


def panels(found: Evaluation, plateaus: Mapping[Method, tuple[float, float]]) -> Figure:
    """Success (selection episodes, Wilson's band) against w; BC grey; plateau at the bottom; ◇ the
    chosen weight on held-out episodes, with its interval.
    """
    methods = list(plateaus)
    columns = min(4, len(methods))
    count = -(-len(methods) // columns)
    figure = new_figure(1.9 * columns + 0.5, 1.9 * count + 0.9)
    grid = figure.subplots(count, columns, sharey=True, squeeze=False)
    bc = next((c.success for c in found.selection if c.method == Method()), None)
    for axes, method in zip(grid.flat, methods):
        look = {**style(method.label), "linestyle": "-"}
        curve = [c for c in found.curve(method) if c.weight]
        x = [c.weight for c in curve]
        if bc is not None:
            axes.axhspan(bc.low, bc.high, color=style("none")["color"], alpha=0.18, linewidth=0)
            axes.axhline(bc.value, color=style("none")["color"], linewidth=1.0)
        axes.fill_between(
            x,
            [c.success.low for c in curve],
            [c.success.high for c in curve],
            color=look["color"],
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(x, [c.success.value for c in curve], **look)
        axes.plot(plateaus[method], (0, 0), color=look["color"], linewidth=4, alpha=0.6)
        held = next(c for c in found.held_out if c.method == method)
        rate = held.success
        axes.errorbar(
            held.weight,
            rate.value,
            yerr=[[rate.value - rate.low], [rate.high - rate.value]],
            marker="D",
            markersize=5,
            markerfacecolor="white",
            color="black",
            capsize=2,
            linewidth=1,
            zorder=4,
        )
        axes.set_xscale("log")
        axes.set_ylim(*_LIMITS)
        dress(axes, method.label, "", "")
        axes.title.set_fontsize(8.5)
    for axes in list(grid.flat)[len(methods) :]:
        axes.set_visible(False)
    figure.supxlabel("guidance weight w", fontsize=10)
    figure.supylabel("success rate", fontsize=10)
    size = len(found.selection[0].episodes) if found.selection else 0
    figure.suptitle(
        f"{found.task}: {size} selection episodes a weight, band: 95%; bar: plateau;\n"
        f"◇ {len(found.held_out[0].episodes)} held-out episodes at the chosen w; grey: behaviour "
        "cloning",
        fontsize=9,
    )
    return figure
