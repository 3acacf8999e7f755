"""The roofline: what each contender reaches of what the machine can do."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.plotting import ESTIMATOR_STYLES, Figure, dress, new_figure

_LOOKS = [ESTIMATOR_STYLES[n] for n in ("qgf", "none", "ood", "qgf_chain", "qgf_jacobian", "bptt")]
_CEILING = "#000000"


def has_counts(rows: list[dict[str, Any]]) -> bool:
    """Whether any row has something to draw."""
    return any(row["counts"] is not None for row in rows)


def roofline(rows: list[dict[str, Any]]) -> Figure:
    """GFLOP/s over FLOPs per weight byte, both as necessary; one panel for each network.

    A row of panels for each estimator, dtype and number of threads; a line for each contender, a
    point for each batch; ceilings: the matrix product, and reading the network's bytes. Rows
    without counts (estimators that do not state their products) are left out.
    """
    rows = [row for row in rows if row["counts"] is not None]
    kinds = list(dict.fromkeys((r["estimator"], r["dtype"], r["threads"]) for r in rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["contenders"]))
    height, width = max(1, len(kinds)), max(1, len(networks))
    figure = new_figure(2.4 + 2.9 * width, 0.9 + 2.9 * height)
    panels = figure.subplots(height, width, squeeze=False, sharex=True, sharey=True)
    for i, kind in enumerate(kinds):
        for j, network in enumerate(networks):
            own = [
                row
                for row in rows
                if (row["estimator"], row["dtype"], row["threads"]) == kind
                and row["network"] == network
            ]
            title = f"{network}: {kind[0]}, {kind[1]}, {kind[2]} thr."
            x_label = "FLOPs per weight byte" if i == height - 1 else ""
            dress(panels[i][j], title, x_label, "GFLOP/s" if j == 0 else "")
            panels[i][j].title.set_fontsize(9)
            if own:
                _panel(panels[i][j], own, names)
    handles: dict[str, Any] = {}
    for axes in panels.ravel():
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False
    )
    return figure


def _panel(axes: Any, rows: list[dict[str, Any]], names: list[str]) -> None:
    intensities = [_intensity(row) for row in rows]
    peak, read = rows[0]["gemm_peak_gflops"], rows[0]["read_peak_gbytes"]
    x = np.geomspace(min(intensities) / 1.6, max(*intensities, peak / read) * 1.6, 200)
    axes.plot(x, np.minimum(peak, read * x), color=_CEILING, linewidth=1.2, label="ceiling")
    middle = max(x[-1] / 1.2, peak / read)
    axes.annotate(f"{peak:.0f} GFLOP/s", (middle, peak), (0, 3), ha="right",
                  textcoords="offset points", fontsize=7)  # fmt: skip
    axes.annotate(f"{read:.0f} GB/s", (x[0], read * x[0]), (-6, 18), textcoords="offset points",
                  fontsize=7)  # fmt: skip
    for n, name in enumerate(names):
        look = _LOOKS[n % len(_LOOKS)]
        points = [
            (_intensity(row), row["contenders"][name]["gflops_necessary"], row["batch"])
            for row in rows
            if name in row["contenders"]
        ]
        if points:
            axes.plot(*zip(*(p[:2] for p in points), strict=True), color=look.color,
                      linestyle=("-", "--", ":")[n // len(_LOOKS) % 3], marker=look.marker,
                      markerfacecolor="white" if n >= len(_LOOKS) else look.color,
                      markersize=4, linewidth=1, label=name)  # fmt: skip
    axes.set(xscale="log", yscale="log")
    lowest = min(e["gflops_necessary"] for r in rows for e in r["contenders"].values())
    for intensity, row in zip(intensities, rows, strict=True):
        label = f"batch {row['batch']}" if row is rows[0] else str(row["batch"])
        axes.annotate(label, (intensity, 0.02), xycoords=("data", "axes fraction"),
                      ha="center", fontsize=6.5, color="#555555")  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, lowest / 2.5), max(high, peak * 1.6))


def _intensity(row: dict[str, Any]) -> float:
    necessary = row["counts"]["necessary"]
    return float(necessary["flops"] / necessary["weight_bytes"])
