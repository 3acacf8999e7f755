"""The audit's figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from qgf_ref.audit.profile import Profile
from qgf_ref.checks import Check
from qgf_ref.plotting import ESTIMATOR_STYLES, Figure, dress, legend_beside, new_figure, style

FLOOR = 1e-17
"""Where an error of exactly zero is drawn on a logarithmic axis."""


FEW = 8
"""More lines than this, and those that matter are drawn above the others, which are thin."""
MATTER = ("bptt", "ood", "qgf_jacobian", "qgf")
"""The last on top; a user's own above them."""


def _looks(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each name, and `Axes.plot`'s arguments for its line."""
    every = list(names)
    for name in every:
        rank = MATTER.index(name) + 1 if name in MATTER else 0
        rank = rank if name in ESTIMATOR_STYLES else len(MATTER) + 1
        look = {**style(name), "label": name, "zorder": 2 + 0.1 * rank}
        if len(every) > FEW:
            look |= {"linewidth": 2.0} if rank else {"linewidth": 0.9, "alpha": 0.7}
        yield name, look


def checks_figure(checks: list[Check]) -> Figure:
    """Every check's error against its tolerance."""
    figure = new_figure(7.2, 3.2)
    axes = figure.subplots()
    kinds = {
        "complex_step": ("#0072B2", "o", "against complex step"),
        "adjoint identity": ("#E69F00", "^", "adjoint identity"),
        "central_difference": ("#CC79A7", "s", "against central differences"),
    }
    for oracle, (color, marker, label) in kinds.items():
        points = [(i, c) for i, c in enumerate(checks) if c.oracle == oracle]
        if not points:
            continue
        x = [i for i, _ in points]
        axes.semilogy(
            x, [max(c.error, FLOOR) for _, c in points], marker, color=color, ms=4, label=label
        )
        axes.semilogy(
            x, [c.tolerance for _, c in points], "_", color=color, ms=6, alpha=0.6,
            label=f"{label}: tolerance",
        )  # fmt: skip
    dress(axes, f"{len(checks)} derivative checks", "check", "norm-relative error")
    axes.set_ylim(bottom=FLOOR / 3)
    legend_beside(axes)
    return figure


def norms_figure(profile: Profile) -> Figure:
    """Median gradient norm along the chain."""
    figure = new_figure()
    axes = figure.subplots()
    for name, look in _looks(profile.norm):
        axes.semilogy(profile.times, np.maximum(profile.norm[name], FLOOR), **look)
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=max(low, high / 1e6))  # one that vanishes must not flatten the others
    dress(axes, "Gradient norm along the chain", "flow time t", "median ‖G‖ over rows")
    legend_beside(axes)
    return figure


def cosine_figure(profile: Profile) -> Figure:
    """Mean cosine between estimators."""
    names = list(profile.cosine)
    table = np.array([[profile.cosine[a][b] for b in names] for a in names], dtype=float)
    figure = new_figure(7.2, 5.4)
    axes = figure.subplots()
    image = axes.imshow(table, vmin=-1, vmax=1, cmap="PuOr")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            dark = abs(value) > 0.7
            digits = "–" if np.isnan(value) else f"{value:.2f}"
            text = axes.text(
                j, i, digits, ha="center", va="center", fontsize=7,
                color="white" if dark else "black",
            )  # fmt: skip
            text.set_in_layout(False)  # inside the axes; measuring 200 of them takes seconds
    axes.set_title("Cosine between estimators (mean over steps and rows)", fontsize=10, loc="left")
    figure.colorbar(image, label="cosine", shrink=0.8)
    return figure


def noise_figure(profile: Profile) -> Figure:
    """Noise sensitivity (the paper's Figure 3)."""
    figure = new_figure()
    axes = figure.subplots()
    for name, look in _looks(profile.noise_cosine):
        values = np.array(profile.noise_cosine[name], dtype=float)
        axes.semilogx(profile.noise_levels, values, **look)
    dress(
        axes,
        "Noise sensitivity (the paper's Fig. 3)",
        "noise σ added to a_t",
        "cos(G(a_t), G(a_t + σε))",
    )
    legend_beside(axes)
    return figure


def jacobian_figure(profile: Profile) -> Figure:
    """Singular values of the one-step Jacobian, and the share of clipped coordinates."""
    figure = new_figure(7.2, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    values = np.array(profile.singular)
    for quantile, (color, label) in {
        1.0: ("#D55E00", "largest"),
        0.5: ("#000000", "middle"),
        0.0: ("#0072B2", "smallest"),
    }.items():
        column = round((1 - quantile) * (values.shape[1] - 1))
        left.semilogy(profile.times, values[:, column], "o-", ms=3.5, color=color, label=label)
    left.axhline(1, color="#7F7F7F", lw=0.8, ls=":")
    dress(left, "Singular values of J₀ = I + (1−t)∂v/∂a", "flow time t", "median over rows")
    left.legend(fontsize=7.5, frameon=False)
    if profile.clipped:
        right.plot(profile.times, np.array(profile.clipped) * 100, "o-", ms=3.5, color="#009E73")
        right.set_ylim(bottom=0)
    dress(right, "Clipped coordinates of â₁", "flow time t", "share (%)")
    return figure


def final_q_figure(profile: Profile) -> Figure:
    """Critic at the final action, by guidance weight (beside the paper's Figures 4 and 20)."""
    figure = new_figure()
    axes = figure.subplots()
    for name, look in _looks(profile.q):
        axes.plot(profile.weights, [mean for mean, _ in profile.q[name]], **look)
    axes.set_xscale("symlog", linthresh=min(w for w in profile.weights if w > 0))
    axes.set_xticks(profile.weights, [f"{w:g}" for w in profile.weights])
    axes.minorticks_off()
    dress(axes, "Critic at the final action", "guidance weight w", "mean Q(s, a₁) over rows")
    legend_beside(axes)
    return figure


def precision_figure(
    precision: dict[str, dict[str, list[float]]], times: tuple[float, ...]
) -> Figure:
    """float32 against float64 along the chain."""
    figure = new_figure(7.2, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, embedding in zip(panels, ("exact", "float32"), strict=True):
        for name, look in _looks(precision):
            error = np.maximum(precision[name][f"a, {embedding} embedding"][1:], FLOOR)
            axes.semilogy(times[1:], error, **look)
        dress(axes, f"{embedding} time embedding", "flow time t", "")
    panels[0].set_ylabel("‖a₃₂ − a₆₄‖ / ‖a₆₄‖")
    legend_beside(panels[-1])
    return figure
