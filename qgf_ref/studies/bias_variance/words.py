"""What the bias-variance study says: its tables in text, and the sentences computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgf_ref.studies.base import Rows, by_estimator, distinct, fill, select
from qgf_ref.studies.bias_variance.sweeps import SweepSize
from qgf_ref.studies.shared.problems import SIDE, STEPS
from qgf_ref.studies.shared.scenes import SD
from qgf_ref.tables import text_table


def report(size: SweepSize, tables: Mapping[str, Rows]) -> tuple[str, dict[str, Any]]:
    """The text of the outcome, and the numbers that it quotes."""
    errors = select(tables[""], quantity="scaled_error")
    boundary, samples, curl = tables["boundary"], tables["samples"], tables["curl"]
    verdicts, quoted = _boundary_text(boundary)
    by_weight = select(errors, sweep="w")
    energy = select(samples, metric="energy")
    blocks = [
        fill(
            f"Three modes of sd {SD:g}, {SIDE:g} apart (n = 1: at −2, 0, 1); Q = −½‖a − a*‖², a* "
            f"near the third; T = {STEPS}, no action bound. States: exact marginals of the tilted "
            "law. Error: √E‖c·G − g*‖² over all times, relative to g*, at each estimator's best "
            "single scale c (what tuning w would absorb)."
        ),
        "1. Exact v and Q, by weight",
        *(
            by_estimator(f"n = {n}", select(by_weight, n=n), "w", "w = {:g}")
            for n in distinct(by_weight, "n")
        ),
        fill(
            f"2. With errors, w = {size.weight:g}. Slope (columns Q): size of the error of ∇Q "
            "relative to ∇Q. Strain (columns v): √n·sd/length of v's error e, which is "
            "√E‖(∂e/∂a)ᵀu‖² for a unit vector u."
        ),
        *(
            by_estimator(f"n = {n}", _with_errors(select(errors, n=n)), "error")
            for n in size.noisy_dims
        ),
        fill(
            "3. The boundary: error from which qgf, which has no Jacobian, is nearer to g* than a "
            "rival, by the scaled error of G; samples (4) need not agree. pred.: from the exact "
            "problem (bias_variance/boundary.py). 0: always; "
            f"–: never (meas.: not up to a strain of {max(size.strains):g}, a slope of "
            f"{max(size.rhos):g})."
        ),
        _boundary_table(boundary),
        verdicts,
        fill(
            "4. Samples of ten steps, w tuned over 1/4 … 4 times: energy distance to the tilted "
            f"law, {size.sample_rows} samples, mean of {size.sample_draws} draws"
        ),
        *(
            by_estimator(
                f"n = {n}",
                [
                    r
                    for r in select(energy, n=n)
                    if r["at"] == ("at_w" if r["estimator"] == "exact samples" else "tuned")
                ],
                "condition",
                number="{:.3f}",
            )
            for n in size.noisy_dims
        ),
        _samples_text(samples),
        "5. Departure from a gradient field, ‖A − Aᵀ‖/‖A + Aᵀ‖, A = ∂G/∂a_t, mean over t > 0",
        by_estimator(
            "",
            [{**r, "panel": f"n = {r['n']}, {r['networks']}"} for r in curl],
            "panel",
            number="{:.1g}",
        ),
    ]
    return "\n\n".join(blocks), quoted


def _with_errors(rows: Rows) -> list[dict[str, Any]]:
    """The noise sweeps' rows, first those of Q, under what the column `error` calls them."""
    critic = [
        {**r, "error": f"Q {r['rho']:g}" if r["rho"] else "exact"}
        for r in select(rows, sweep="critic")
    ]
    field = [r for r in select(rows, sweep="field") if r["strain"] > 0]
    return [*critic, *({**r, "error": f"v {r['strain']:g}"} for r in field)]


def _boundary_table(boundary: Rows) -> str:
    pairs: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for r in boundary:
        key = r["rival"], r["n"], r["w"], r["separation"], r["sd"]
        pairs.setdefault(key, {})[r["kind"]] = r
    rivals = distinct(boundary, "rival")
    keys = sorted(pairs, key=lambda key: rivals.index(key[0]))
    body = []
    for rival, n, w, separation, sd in keys:
        pair = pairs[rival, n, w, separation, sd]
        apart = separation * SIDE if n > 1 else separation
        cells = [
            _where(pair[kind].get(column))
            for kind in ("strain", "rho")
            for column in ("predicted", "measured")
        ]
        body.append([rival, f"{n}", f"{w:g}", f"{apart:g}", f"{sd:g}", *cells])
    head = ["rival", "n", "w", "apart", "sd", "strain pred.", "meas.", "slope pred.", "meas."]
    return text_table(head, body, left=(0,))


def _where(value: float | None) -> str:
    if value is None:
        return ""
    return "–" if value == float("inf") else f"{value:.2g}"


def _boundary_text(boundary: Rows) -> tuple[str, dict[str, Any]]:
    quoted: dict[str, Any] = {}
    sentences = []
    for rival in distinct(boundary, "rival"):
        rows = select(boundary, rival=rival)
        strains, slopes = select(rows, kind="strain"), select(rows, kind="rho")
        exact = [2 ** r["log2_ratio_exact"] for r in strains]
        won = sum(x < 1 for x in exact)
        text = (
            f"{rival}: with exact networks qgf is nearer to g* in {won} of {len(exact)} problems; "
            f"error of qgf/its own: {_range(exact)}."
        )
        quoted[rival] = {"exact_ratio": exact, "problems": len(exact), "won": won}
        others = [r["measured"] for r in strains if r["log2_ratio_exact"] >= 0]
        if others:
            reached = [x for x in others if x < float("inf")]
            undecided = [r["measured"] for r in slopes if r["measured"] > 0]
            never = sum(x == float("inf") for x in undecided)
            text += (
                f" In {len(reached)} of the other {len(others)} it is from a strain of v's error "
                f"of {_range(reached) if reached else 'more than was tried'}. A slope of Q's error "
                f"up to {max(r['largest_tried'] for r in slopes):g} does not decide it in {never} "
                f"of {len(undecided)}."
            )
            quoted[rival] |= {"strain": reached, "slope_never": [never, len(undecided)]}
        sentences.append(fill(text))
    return "\n".join(sentences), quoted


def _range(values: Sequence[float]) -> str:
    """Median and extremes."""
    if len(values) == 1:
        return f"{values[0]:.2g}"
    return f"{min(values):.2g} to {max(values):.2g} (median {np.median(values):.2g})"


def _samples_text(samples: Rows) -> str:
    """Where samples of each rival are nearer or farther than those of qgf, beyond the interval."""
    rows = select(samples, metric="below_qgf", at="tuned")
    sentences = []
    for label in distinct(rows, "estimator"):
        if label in ("none", "oracle", "ood"):
            continue
        mine = select(rows, estimator=label)
        nearer = sum(r["low"] > 0 for r in mine)
        farther = [f"n = {r['n']}, {r['condition']}" for r in mine if r["high"] < 0]
        lost = f"farther in {len(farther)} ({'; '.join(farther)})" if farther else "farther in none"
        sentences.append(
            fill(f"{label}: nearer than qgf in {nearer} of {len(mine)} conditions, {lost}.")
        )
    return "\n".join(sentences)
