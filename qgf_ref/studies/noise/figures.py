"""The noise study's figures: cosine and change against σ, and the cosine against t."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import dress
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.noise.words import PAPER
from qgf_ref.studies.shared.figures import grid, legend, lines

SIGMAS_BY_TIME = (0.03, 0.1, 0.3)
_COSINE = "cos(G(a_t), G(a_t + σξ))"


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """ "" over all t, "by_time" at each."""
    rows = tables[""]
    known = ("qgf", *PAPER, *(about["settings"]["estimators"] or ()))
    overall, (panels,) = grid(1, 2, 4.2, 3.9)
    for axes, measure, y in zip(
        panels, ("cosine", "change"), (_COSINE, "‖G(a_t + σξ) − G(a_t)‖ / mean ‖G‖"), strict=True
    ):
        lines(axes, select(rows, measure=measure, time="all"), "sigma", focus=known)
        log = "x" if measure == "cosine" else "xy"
        dress(axes, "", "noise σ in a_t (normalised action units)", y, log=log)
    overall.suptitle("Sensitivity of G to noise in a_t, over the BC chain (band: 95%)", fontsize=10)
    timed = [r for r in rows if r["time"] != "all"]
    sigmas = [s for s in SIGMAS_BY_TIME if s in distinct(rows, "sigma")]
    by_time, (columns,) = grid(1, len(sigmas), 2.9, 3.5, sharey=True)
    for axes, sigma in zip(columns, sigmas, strict=True):
        lines(axes, select(timed, sigma=sigma), "time", focus=known)
        dress(axes, f"σ = {sigma:g}", "t", _COSINE if sigma == sigmas[0] else "")
    for figure, axes in ((overall, panels[1]), (by_time, columns[0])):
        legend(figure, axes)
    return {"": overall, "by_time": by_time}
