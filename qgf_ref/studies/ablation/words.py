"""The ablation in words: tables of cells and effects, and what follows from their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.studies.ablation.closed_form import MEASURES
from qgf_ref.studies.ablation.factors import (
    BOTH,
    EFFECTS,
    FOUR,
    HEADS,
    JACOBIAN,
    MASK,
    certain,
    effect_text,
    factor_table,
)
from qgf_ref.studies.base import Rows, distinct, fill, select
from qgf_ref.tables import text_table

TITLES = {
    "bias": "bias (relative)",
    "sd": "sd under critic error (relative)",
    "distance": "distance of samples to the exact law",
}
SUBJECTS = {
    "mask": "the mask",
    "Jacobian": "the Jacobian",
    "interaction": "the two together (interaction)",
}


def report(scenes: int, exact: Rows, over: str, trained: Rows, note: str, played: Rows) -> str:
    """The text of the outcome. over: what the intervals of the trained networks are over."""
    overall = select(trained, time="all")
    clipped = select(overall, measure="clipped")[0]["value"]
    blocks = [
        fill(
            "Four gradients: qgf (neither), qgf_masked (mask), qgf_jacobian_unmasked (J), "
            "qgf_jacobian (both). Effects ± half of the 95% interval; * where it excludes 0."
        ),
        fill(
            f"Closed form, exact v and Q: {scenes} random scenes a row (Student's t over scenes); "
            "in brackets the share of clipped coordinates of the one-step estimate. Q of the truth "
            "acts on the action before the clip: in a clipped coordinate the true guidance is not "
            "0, the mask's is."
        ),
        *_closed_form(exact),
        fill(
            f"Trained networks, over the BC chain: {clipped:.0%} of the coordinates clipped; "
            f"{over}."
        ),
        _against_qgf(overall),
        factor_table({"relative variance": select(overall, measure="variance")}, 3),
        fill(note) + "\n" + _success(played),
        "\n".join(["What follows:", *conclusions(exact, trained, played)]),
    ]
    return "\n\n".join(blocks)


def _closed_form(exact: Rows) -> list[str]:
    labels = {
        f"n={n} ({share:.0%})": {"n": n, "reach": reach}
        for n, reach, share in distinct(exact, "n", "reach", "clipped")
    }
    tables = []
    for measure in MEASURES:
        by_label = {k: select(exact, measure=measure, **where) for k, where in labels.items()}
        tables.append(f"{TITLES[measure]}\n{factor_table(by_label, 3)}")
    others = [
        [label, *(f"{select(rows, term=name)[0]['value']:.3f}" for name in ("none", "exact"))]
        for label, rows in by_label.items()
    ]
    head = ["for comparison", "unguided", "another draw of the exact law"]
    return [*tables, text_table(head, others, left=(0,))]


def _against_qgf(overall: Rows) -> str:
    measures = ("change", "cosine", "norm ratio")
    body = []
    for name in (MASK, JACOBIAN, BOTH):
        cells = [select(overall, measure=m, term=name)[0] for m in measures]
        body.append(
            [HEADS[name], *(f"{c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells)]
        )
    return text_table(["against qgf", "change", "cosine", "ratio of norms"], body, left=(0,))


def _success(played: Rows) -> str:
    held_out = select(played, split=HELD_OUT)
    weights = [f"{select(held_out, term=name)[0].get('chosen') or 0:g}" for name in FOUR]
    by_label = {"success, held out": held_out}
    selection = select(played, split=SELECTION)
    for w in distinct(selection, "weight"):
        by_label[f"all at w={w:g}"] = select(selection, weight=w)
    chosen = ", ".join(f"{HEADS[n]} {w}" for n, w in zip(FOUR, weights, strict=True))
    return f"{factor_table(by_label)}\nheld out at w: {chosen}"


def conclusions(exact: Rows, trained: Rows, played: Rows) -> list[str]:
    """What follows, from the intervals alone."""
    sentences = []
    for measure in MEASURES:
        for effect in ("mask", "Jacobian"):
            rows = [r for r in select(exact, measure=measure, term=effect) if certain(r)]
            of = len(select(exact, measure=measure, term=effect))
            up = sum(r["value"] > 0 for r in rows)
            sentences.append(
                f"- closed form: {SUBJECTS[effect]} raises the {measure} in {up} of {of} settings, "
                f"lowers it in {len(rows) - up}, and is within the interval in {of - len(rows)}"
            )
    for effect in ("mask", "Jacobian"):
        row = select(trained, time="all", measure="variance", term=effect)[0]
        sentences.append(_trained(effect, row, "variance under noise in a_t", 3))
    for effect in EFFECTS:
        row = select(played, split=HELD_OUT, term=effect)[0]
        sentences.append(_trained(effect, row, "success", 2))
    return [fill(line, "  ") for line in sentences]


def _trained(effect: str, row: Mapping[str, Any], what: str, digits: int) -> str:
    size = effect_text(row, digits).rstrip("* ")
    if not certain(row):
        return f"- trained: {SUBJECTS[effect]} changes the {what} by {size}: within the interval"
    verb = "raises" if row["value"] > 0 else "lowers"
    return f"- trained: {SUBJECTS[effect]} {verb} the {what}: {size}"
