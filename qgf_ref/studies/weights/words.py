"""The study `weights` in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qgf_ref.studies.base import Rows, page
from qgf_ref.studies.shared.episodes import interval_text, short
from qgf_ref.studies.shared.trained import left_out
from qgf_ref.tables import columns_of, text_table


def report(note: str, bc: Mapping[str, Any], summary: Rows, without: Mapping[str, str]) -> str:
    """The table of plateaus, and who is highest, widest, and first to fall."""
    above = [
        "Success against the guidance weight w",
        note,
        f"BC, without guidance: {bc['success']:.2f} ({interval_text(bc)}), held out.",
    ]
    below = [
        "success: held out, at the w that was chosen on the selection episodes. − qgf: 95% of the "
        "paired difference to qgf at its own w. max: optimistic, the maximum over weights on the "
        "selection episodes. plateau: weights around the best whose success on the selection "
        "episodes lies within the best one's 95% interval. half at: the "
        "first w above the best with at most half its success (–: none on the grid).",
        *_extremes(summary),
        *left_out(without),
    ]
    return page(above, _table(summary), below)


def _table(summary: Rows) -> str:
    columns: dict[str, Any] = {
        "estimator": lambda r: short(r["estimator"]),
        "w": lambda r: f"{r['chosen_weight']:g}",
        "success": lambda r: f"{r['success']:.2f}",
        "95%": interval_text,
        "seeds": lambda r: r["seeds"],
        "− qgf 95%": lambda r: (
            f"{r['minus_qgf_low']:+.2f} {r['minus_qgf_high']:+.2f}" if "minus_qgf" in r else ""
        ),
        "max": lambda r: f"{r['optimistic']:.2f}",
        "plateau": lambda r: f"{r['plateau_low']:g}–{r['plateau_high']:g}",
        "half at": lambda r: "–" if r["collapse"] is None else f"{r['collapse']:g}",
    }
    if not any(r["seeds"] for r in summary):
        del columns["seeds"]
    return text_table(*columns_of(summary, columns))


def _extremes(summary: Rows) -> list[str]:
    # a weight of another scale cannot be compared, nor a plateau of failures
    alike = [r for r in summary if not r["own_grid"] and r["optimistic"] > 0]

    def named(column: str, value: Any, among: Rows) -> str:
        return ", ".join(r["estimator"] for r in among if r[column] == value)

    rate = max(r["success"] for r in summary)
    width = max((r["width"] for r in alike), default=None)
    first = min((r["collapse"] for r in alike if r["collapse"] is not None), default=None)
    highest = f"Highest held-out success: {named('success', rate, summary)}, {rate:.2f}."
    if width is not None:
        widest = named("width", width, alike)
        highest += f" Widest plateau (as far as the grid goes): {widest}, a factor of {width:.0f}."
    if first is None:
        return [highest, "No estimator falls to half its best success on this grid."]
    falls = named("collapse", first, alike)
    return [highest, f"First to fall to half its best success: {falls}, at w = {first:g}."]
