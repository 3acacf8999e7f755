"""What the bias-variance study says: its tables in text, and the sentences computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgf_ref.studies.base import Rows, fill
from qgf_ref.studies.bias_variance.sweeps import Size
from qgf_ref.studies.shared.problems import SIDE, STEPS
from qgf_ref.studies.shared.scenes import SD


def report(size: Size, tables: Mapping[str, Rows]) -> tuple[str, dict[str, Any]]:
    """The text of the outcome, and the numbers that it quotes."""
    scores, boundary, samples = tables[""], tables["boundary"], tables["samples"]
    found, quoted = _boundary_text(boundary)
    blocks = [
        fill(
            f"Three modes of sd {SD:g}, {SIDE:g} apart (n = 1: at −2, 0, 1); Q = −½‖a − a*‖², a* "
            f"near the third; T = {STEPS}, no action bound. States: exact marginals of the tilted "
            "law. Error: √E‖c·G − g*‖² over all times, relative to g*, at each estimator's best "
            "single scale c (what tuning w would absorb)."
        ),
        "1. Exact v and Q, by weight",
        _weights(scores),
        fill(
            f"2. With errors, w = {size.weight:g}. Slope (columns Q): size of the error of ∇Q "
            "relative to ∇Q. Strain (columns v): √n·sd/length of v's error e, which is "
            "√E‖(∂e/∂a)ᵀu‖² for a unit vector u."
        ),
        *(_errors(scores, n) for n in size.shown_dims),
        fill(
            "3. The boundary: error from which qgf, which has no Jacobian, is nearer to g* than a "
            "rival, by the scaled error of G; samples (4) need not agree. pred.: from the exact "
            "problem (bias_variance_boundary.py). 0: always; "
            f"–: never (meas.: not up to a strain of {max(size.strains):g}, a slope of "
            f"{max(size.rhos):g})."
        ),
        _boundary_table(boundary),
        found,
        fill(
            "4. Samples of ten steps, w tuned over 1/4 … 4 times: energy distance to the tilted "
            f"law, {size.sample_rows} samples, mean of {size.sample_draws} draws"
        ),
        *(_samples(samples, n) for n in size.shown_dims),
        _samples_text(samples),
        "5. Departure from a gradient field, ‖A − Aᵀ‖/‖A + Aᵀ‖, A = ∂G/∂a_t, mean over t > 0",
        _curl(tables["curl"]),
    ]
    return "\n\n".join(blocks), quoted


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right, as wide as they need to be."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _estimators(rows: Rows) -> list[str]:
    return list(dict.fromkeys(r["estimator"] for r in rows))


def _one(rows: Rows, **wanted: Any) -> float:
    for r in rows:
        if all(r.get(key) == value for key, value in wanted.items()):
            return float(r["value"])
    raise KeyError(wanted)


def _weights(scores: Rows) -> str:
    rows = [r for r in scores if r["sweep"] == "w" and r["quantity"] == "scaled_error"]
    weights = sorted({r["w"] for r in rows})
    made = []
    for n in sorted({r["n"] for r in rows}):
        for label in _estimators(rows):
            cells = [f"{_one(rows, n=n, w=w, estimator=label):.2f}" for w in weights]
            made.append([f"n = {n:<3} {label}", *cells])
    return _table(["", *(f"w = {w:g}" for w in weights)], made)


def _errors(scores: Rows, n: int) -> str:
    rows = [r for r in scores if r["n"] == n and r["quantity"] == "scaled_error"]
    slopes = sorted({r["rho"] for r in rows if r["sweep"] == "critic" and r["rho"] > 0})
    strains = sorted({r["strain"] for r in rows if r["sweep"] == "field" and r["strain"] > 0})
    head = [f"n = {n}", "exact", *(f"Q {s:g}" for s in slopes)]
    made = []
    for label in _estimators(rows):
        cells = [_one(rows, sweep="critic", rho=0.0, estimator=label)]
        cells += [_one(rows, sweep="critic", rho=s, estimator=label) for s in slopes]
        cells += [_one(rows, sweep="field", strain=s, estimator=label) for s in strains]
        made.append([label, *(f"{c:.2f}" for c in cells)])
    return _table([*head, *(f"v {s:g}" for s in strains)], made)


def _where(value: float | None) -> str:
    if value is None:
        return ""
    return "–" if value == float("inf") else f"{value:.2g}"


def _boundary_table(boundary: Rows) -> str:
    made = []
    keys = dict.fromkeys((r["n"], r["w"], r["separation"], r["sd"], r["rival"]) for r in boundary)
    for key in keys:
        n, w, separation, sd, rival = key
        cells = [f"{n}", f"{w:g}", f"{separation * SIDE if n > 1 else separation:g}", f"{sd:g}"]
        for kind in ("strain", "rho"):
            row = next(
                r
                for r in boundary
                if (r["n"], r["w"], r["separation"], r["sd"], r["rival"]) == key
                and r["kind"] == kind
            )
            cells += [_where(row.get("predicted")), _where(row["measured"])]
        made.append([rival, *cells])
    rivals = list(dict.fromkeys(row[0] for row in made))
    made.sort(key=lambda row: rivals.index(row[0]))
    head = ["rival", "n", "w", "apart", "sd", "strain pred.", "meas.", "slope pred.", "meas."]
    return _table(head, made)


def _boundary_text(boundary: Rows) -> tuple[str, dict[str, Any]]:
    quoted: dict[str, Any] = {}
    said = []
    for rival in dict.fromkeys(r["rival"] for r in boundary):
        mine = [r for r in boundary if r["rival"] == rival]
        strains = [r for r in mine if r["kind"] == "strain"]
        exact = [2 ** r["log2_ratio_exact"] for r in strains]
        won = [x for x in exact if x < 1]
        text = f"{rival}: with exact networks qgf is nearer to g* in {len(won)} of "
        text += f"{len(exact)} problems; error of qgf/its own: {_range(exact)}."
        numbers: dict[str, Any] = {"exact_ratio": exact, "problems": len(exact), "won": len(won)}
        others = [r for r in strains if r["log2_ratio_exact"] >= 0]
        if others:
            reached = [r["measured"] for r in others if r["measured"] < float("inf")]
            text += f" In {len(reached)} of the other {len(others)} it is from a strain of v's "
            text += "error of "
            text += f"{_range(reached)}." if reached else "more than was tried."
            slopes = [r["measured"] for r in mine if r["kind"] == "rho" and r["measured"] > 0]
            never = sum(x == float("inf") for x in slopes)
            largest = max(r["largest_tried"] for r in mine if r["kind"] == "rho")
            text += f" A slope of Q's error up to {largest:g} does not decide it in {never} of "
            text += f"{len(slopes)}."
            numbers |= {"strain": reached, "slope_never": [never, len(slopes)]}
        said.append(fill(text))
        quoted[rival] = numbers
    return "\n".join(said), quoted


def _range(values: Sequence[float]) -> str:
    """Median and extremes."""
    if len(values) == 1:
        return f"{values[0]:.2g}"
    return f"{min(values):.2g} to {max(values):.2g} (median {np.median(values):.2g})"


def _curl(curl: Rows) -> str:
    panels = list(dict.fromkeys((r["n"], r["networks"]) for r in curl))
    made = []
    for label in _estimators(curl):
        cells = []
        for panel in panels:
            here = [r for r in curl if r["estimator"] == label and (r["n"], r["networks"]) == panel]
            cells.append(f"{np.mean([r['value'] for r in here]):.1g}")
        made.append([label, *cells])
    return _table(["", *(f"n = {n}, {networks}" for n, networks in panels)], made)


def _samples(samples: Rows, n: int) -> str:
    rows = [r for r in samples if r["n"] == n and r["metric"] == "energy"]
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    made = []
    for label in _estimators(rows):
        at = "at_w" if label == "exact samples" else "tuned"
        cells = []
        for condition in conditions:
            found = [
                r
                for r in rows
                if (r["estimator"], r["condition"], r["at"]) == (label, condition, at)
            ]
            cells.append(f"{found[0]['value']:.3f}" if found else "")
        made.append([label, *cells])
    return _table([f"n = {n}", *conditions], made)


def _samples_text(samples: Rows) -> str:
    """Where samples of each rival are nearer or farther than those of qgf, beyond the interval."""
    rows = [r for r in samples if r["metric"] == "below_qgf" and r["at"] == "tuned"]
    said = []
    for label in _estimators(rows):
        if label in ("none", "oracle", "ood"):
            continue
        mine = [r for r in rows if r["estimator"] == label]
        nearer = sum(r["low"] > 0 for r in mine)
        farther = [f"n = {r['n']}, {r['condition']}" for r in mine if r["high"] < 0]
        lost = f"farther in {len(farther)} ({'; '.join(farther)})" if farther else "farther in none"
        said.append(
            fill(f"{label}: nearer than qgf in {nearer} of {len(mine)} conditions, {lost}.")
        )
    return "\n".join(said)
