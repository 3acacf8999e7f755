"""The study `compute` in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qgf_ref.evaluation.methods import OFFICIAL_GRADIENT_STEPS
from qgf_ref.studies.base import page
from qgf_ref.studies.compute.points import COSTS, CostPoint, best
from qgf_ref.studies.shared.episodes import interval_text, short, success_columns
from qgf_ref.studies.shared.trained import left_out
from qgf_ref.tables import columns_of, text_table


def report(
    note: str,
    points: Sequence[CostPoint],
    fronts: Mapping[str, Sequence[CostPoint]],
    cheapest: Mapping[str, CostPoint | None],
    trained: int,
    without: Mapping[str, str],
) -> str:
    """Every point's success and costs, the best, and the cheapest that is not measurably worse."""

    def pareto(p: CostPoint) -> str:
        return "".join(
            m if p in fronts[name] else "·" for name, m in zip(COSTS, "Fbp", strict=True)
        )

    columns: dict[str, Callable[[CostPoint], str]] = {
        "method": lambda p: short(p.label),
        "w": lambda p: "" if p.cell.weight is None else f"{p.cell.weight:g}",
        "success": lambda p: f"{p.cell.success.value:.2f}",
        "95%": lambda p: interval_text(success_columns(p.cell)),
        "MFLOP": lambda p: "–" if p.mflop is None else f"{p.mflop:.2f}",
        "necessary": lambda p: "–" if p.counts is None else f"{p.counts.necessary.flops / 1e6:.2f}",
        "ms numba": lambda p: f"{p.ms['numba']['median']:.3f}",
        "ms numpy": lambda p: f"{p.ms['numpy']['median']:.3f}",
        "Pareto": pareto,
    }
    top = best(points)
    above = [
        "Test-time compute against success",
        f"{note} Selection episodes only choose w.",
    ]
    below = [
        "success: held-out episodes. MFLOP: matrix products of one action chunk as the official "
        "code makes them; necessary: without those whose result is known. ms: one observation, one "
        "thread, the fastest call of a round, median of interleaved rounds. Pareto: no cheaper "
        "method succeeds more often, by F FLOPs, b time on numba, p time on numpy. GradStep: steps "
        f"of {OFFICIAL_GRADIENT_STEPS.size:g}, as the official scripts have it.",
        f"The field was trained at the times of T = {trained}: with another T it is also asked at "
        "times that it was not trained for, unless T divides that one.",
        f"Highest success: {top.label}, {top.cell.success.value:.2f}: of {len(points)} points, on "
        "the episodes that it is reported on, hence optimistic.",
    ]
    below += [
        f"Cheapest that is not measurably worse (paired, 95%), by {name}: {least.label}, "
        f"{least.cell.success.value:.2f}."
        for name, least in cheapest.items()
        if least is not None
    ]
    return page(above, text_table(*columns_of(points, columns)), [*below, *left_out(without)])
