"""The noise study in words: its tables, and the paper's claim judged by the intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qgf_ref.audit.profile import NOISE_LEVELS
from qgf_ref.studies.base import Rows, by_estimator, distinct, fill, select
from qgf_ref.tables import text_table

PAPER = ("ood", "bptt", "qgf_jacobian")
"""What the paper's figure compares qgf with."""


def report(overall: Rows, norms: Rows, leads: Rows, zeros: Mapping[str, float]) -> str:
    """Tables of the cosine and of sizes, and the verdict.

    zeros  share of the states at which G is 0, by estimator
    """
    claim = verdict(leads) if leads else "Without qgf and another there is no claim."
    tabulated = [r for r in select(overall, measure="cosine") if r["sigma"] in NOISE_LEVELS]
    cosines = by_estimator("cosine, over all t", tabulated, "sigma", "σ={:g}", "{:.4f}")
    return "\n\n".join((cosines, _sizes(overall, norms, zeros), claim))


def _sizes(overall: Rows, norms: Rows, zeros: Mapping[str, float]) -> str:
    at = {(r["estimator"], r["measure"]): r for r in select(overall, sigma=0.1)}
    body, notes = [], []
    for name, zero in zeros.items():
        c, change, mine = at[name, "cosine"], at[name, "change"], select(norms, estimator=name)
        body.append(
            [
                name,
                f"{c['value']:.4f} [{c['low']:.4f}, {c['high']:.4f}]",
                f"{change['value']:.3f}",
                f"{np.mean([r['value'] for r in select(mine, measure='norm')]):.3g}",
                f"{np.nanmean([r['value'] for r in select(mine, measure='between')]):.3f}",
            ]
        )
        if zero:
            notes.append(f"{name}: G = 0, without a cosine and left out, at {zero:.2%} of states")
    head = ["at σ = 0.1", "cosine [95%]", "change", "‖G‖", "cosine with another observation’s"]
    return "\n".join((text_table(head, body, left=(0,)), *notes))


def verdict(leads: Rows) -> str:
    """Whether qgf is the least sensitive, from the intervals of the paired differences."""
    others = distinct(leads, "other")
    groups = {
        "the paper's rivals": [n for n in others if n in PAPER],
        "the others": [n for n in others if n not in PAPER],
    }
    blocks = [
        f"Against {title} (qgf's cosine minus theirs, paired; and at how many σ, t):\n"
        + "\n".join(_rival(name, select(leads, other=name)) for name in names)
        for title, names in groups.items()
        if names
    ]
    overall = select(leads, time="all")
    rivals = [r for r in overall if r["other"] in PAPER]
    return "\n".join(
        [*blocks, _claim("the paper's rivals", rivals), _claim("every one here", overall)]
    )


def _rival(name: str, leads: Rows) -> str:
    overall = select(leads, time="all")
    timed = [r for r in leads if r["time"] != "all"]
    largest = max(overall, key=lambda r: abs(np.nan_to_num(r["value"])))
    behind = [r for r in timed if r["high"] < 0]
    text = (
        f"  {name:25} largest {largest['value']:+.3f} [{largest['low']:+.3f}, "
        f"{largest['high']:+.3f}] at σ={largest['sigma']:g}; ahead at "
        f"{sum(r['low'] > 0 for r in timed)}, behind at {len(behind)} of {len(timed)}"
    )
    more = ", ".join(f"{r['sigma']:g}" for r in overall if r["high"] < 0)
    late = ", ".join(f"{t:.2g}" for t in sorted({r["time"] for r in behind}))
    if more:
        text += f"\n  {'':25} qgf is the more sensitive over all t at σ = {more}"
    elif late:
        text += f"\n  {'':25} behind at t = {late}"
    return text


def _claim(against: str, rows: Rows) -> str:
    """The paper's statement in one sentence, by the intervals over all t."""
    lost = sorted({r["other"] for r in rows if r["high"] < 0})
    tied = sorted({r["other"] for r in rows if r["low"] <= 0 <= r["high"]} - set(lost))
    if not rows:
        answer = "none of them was studied"
    elif lost:
        answer = f"no; less sensitive at some σ: {', '.join(lost)}"
    elif tied:
        answer = f"never behind; within the interval at some σ of: {', '.join(tied)}"
    else:
        answer = "yes, at every σ over all t"
    return fill(f'"QGF is least noise-sensitive" against {against}: {answer}.')
