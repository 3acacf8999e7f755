"""The clean 2×2 ablation: clip mask or not × Jacobian or not.

The published "QGF-Jacobian" ablation is confounded: its J holds the clip's mask, which `qgf` does
not have. Here the four combinations are compared on closed-form flows (bias, spread, distance to
the exact law) and on trained checkpoints (gradients, variance, success).
Source: method.md, section 3.
"""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from qgf_ref.errors import InputError
from qgf_ref.plotting import dress, legend_beside, new_figure
from qgf_ref.studies.ablation.closed_form import MEASURES, closed_form
from qgf_ref.studies.ablation.factors import (
    BOTH,
    EFFECTS,
    FOUR,
    HEADS,
    JACOBIAN,
    MASK,
    certain,
    effect_text,
    table_head,
    table_line,
)
from qgf_ref.studies.ablation.trained_networks import METHODS, gradients, success_rows
from qgf_ref.studies.base import Outcome, Rows, StudySettings
from qgf_ref.studies.shared.episodes import Plan, note, play
from qgf_ref.studies.shared.trained import banded_line, interval_over

WEIGHTS = (0.01, 0.03, 0.1, 0.3)
QUICK_WEIGHTS = (0.03, 0.1)
PLAN = Plan(selection=16, held_out=96)
QUICK_PLAN = Plan(selection=8, held_out=8)
_TITLES = {
    "bias": "bias (relative)",
    "sd": "sd under critic error (relative)",
    "distance": "distance of samples to the exact law",
}

Found = list[dict[str, Any]]


def study(settings: StudySettings) -> Outcome:
    """`qgf-ref study ablation`. Raises InputError on settings.estimators: the four are the study;
    and as `observations` and `play`.
    """
    if settings.estimators is not None:
        raise InputError(f"the ablation compares {', '.join(FOUR)}: it takes no --estimators")
    quick = settings.quick
    scenes = 4 if quick else 6
    dimensions, reaches = (2, 10), (0.7, 1.4) if quick else (0.8, 1.1, 1.3, 1.5)
    stages = len(dimensions) * len(reaches) * scenes + len(settings.checkpoints) * 5
    with tqdm(total=stages, disable=None, unit="stage") as bar:

        def progress(stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            bar.update()

        # first: what is wrong with the checkpoints or the data is told at once
        trained = gradients(
            settings, rows=48 if quick else 256, draws=3 if quick else 6, progress=progress
        )
        exact = closed_form(
            dimensions=dimensions,
            reaches=reaches,
            scenes=scenes,
            rows=64 if quick else 128,
            draws=4 if quick else 6,
            samples=400 if quick else 1000,
            seed=settings.seed,
            progress=progress,
        )
    plan = QUICK_PLAN if quick else PLAN
    evaluation = play(settings, METHODS, QUICK_WEIGHTS if quick else WEIGHTS, plan)
    played = success_rows(evaluation)
    text = [
        "Four gradients: qgf (neither), qgf_masked (mask), qgf_jacobian_unmasked (J), qgf_jacobian",
        "(both). Effects ± half of the 95% interval; * where it excludes 0.",
        "",
        f"Closed form, exact v and Q: {scenes} random scenes a row (Student's t over scenes); in "
        "brackets the",
        "share of clipped coordinates of the one-step estimate. Q of the truth acts on the action",
        "before the clip: in a clipped coordinate the true guidance is not 0, the mask's is.",
        *_closed_form_tables(exact),
        "",
        *_trained_tables(settings, trained),
        "",
        *wrap(note(settings, plan), 98),
        *_success_tables(played),
        "",
        *conclusions(exact, trained, played),
    ]
    return Outcome(
        text="\n".join(text),
        tables={"": played, "closed_form": exact, "gradients": trained},
        figures={
            "closed_form": _closed_form_figure(exact),
            "gradients": _gradient_figure(trained),
            "success": _success_figure(played),
        },
        details={
            "scenes": scenes,
            "intervals": interval_over(settings),
            "episodes": {"selection": plan.selection, "held_out": plan.held_out},
            "effects": {r["term"]: r["value"] for r in _chosen(played) if r["term"] in EFFECTS},
        },
    )


def _pick(rows: Rows, **where: Any) -> Found:
    return [dict(r) for r in rows if all(r.get(k) == v for k, v in where.items())]


def _chosen(played: Rows) -> Found:
    return _pick(played, split="held-out")


def _scenes(exact: Rows) -> list[tuple[int, float, float]]:
    return list(dict.fromkeys((r["n"], r["reach"], r["clipped"]) for r in exact))


def _closed_form_tables(exact: Rows) -> list[str]:
    lines = []
    for measure in MEASURES:
        lines += ["", _TITLES[measure], table_head("")]
        for n, reach, share in _scenes(exact):
            rows = _pick(exact, n=n, reach=reach, measure=measure)
            lines.append(table_line(f"n={n} ({share:.0%})", rows, 3))
    lines += ["", "for comparison       unguided   another draw of the exact law"]
    for n, reach, share in _scenes(exact):
        at = {r["term"]: r["value"] for r in _pick(exact, n=n, reach=reach, measure="distance")}
        lines.append(f"{f'n={n} ({share:.0%})':20}{at['none']:9.3f}{at['exact']:12.3f}")
    return lines


def _trained_tables(settings: StudySettings, trained: Rows) -> list[str]:
    over = _pick(trained, time="all")
    clipped = _pick(over, measure="clipped")[0]["value"]
    lines = [
        f"Trained networks, over the BC chain: {clipped:.0%} of the coordinates clipped;",
        f"{interval_over(settings)}.",
        f"{'against qgf':20}{'change':>20}{'cosine':>20}{'ratio of norms':>20}",
    ]
    for name in (MASK, JACOBIAN, BOTH):
        cells = [_pick(over, measure=m, term=name)[0] for m in ("change", "cosine", "norm ratio")]
        shown = [f"{c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells]
        lines.append(f"{HEADS[name]:20}" + "".join(f"{text:>20}" for text in shown))
    variance = _pick(over, measure="variance")
    return [*lines, table_head(""), table_line("relative variance", variance, 3)]


def _success_tables(played: Rows) -> list[str]:
    rows = _chosen(played)
    lines = [table_head(""), table_line("success, held out", rows)]
    weights = {r["term"]: r.get("chosen") for r in rows}
    lines.append(f"{'at weight':20}" + "".join(f"{weights[name] or 0:8g}" for name in FOUR))
    for weight in dict.fromkeys(r["weight"] for r in played if r["split"] == "selection"):
        some = _pick(played, split="selection", weight=weight)
        lines.append(table_line(f"all at w={weight:g}", some))
    return lines


def conclusions(exact: Rows, trained: Rows, played: Rows) -> list[str]:
    """What follows, from the intervals alone."""
    lines = ["What follows:"]
    for measure in MEASURES:
        for effect in ("mask", "Jacobian"):
            rows = [r for r in exact if (r["measure"], r["term"]) == (measure, effect)]
            up = sum(certain(r) and r["value"] > 0 for r in rows)
            down = sum(certain(r) and r["value"] < 0 for r in rows)
            lines.append(
                f"- closed form: {_subject(effect)} raises the {measure} in {up} of {len(rows)} "
                f"settings, lowers it in {down}, and is within the interval in "
                f"{len(rows) - up - down}"
            )
    for effect in ("mask", "Jacobian"):
        variance = _pick(trained, time="all", measure="variance", term=effect)[0]
        lines.append(
            f"- trained: {_subject(effect)} {_verdict(variance, 'variance under noise in a_t', 3)}"
        )
    for effect in EFFECTS:
        row = _pick(_chosen(played), term=effect)[0]
        lines.append(f"- trained: {_subject(effect)} {_verdict(row, 'success', 2)}")
    return [part for line in lines for part in wrap(line, 98, subsequent_indent="  ")]


def _subject(effect: str) -> str:
    return {"mask": "the mask", "Jacobian": "the Jacobian"}.get(
        effect, "the two together (interaction)"
    )


def _verdict(row: dict[str, Any], what: str, digits: int) -> str:
    size = effect_text(row, digits).rstrip("* ")
    if not certain(row):
        return f"changes the {what} by {size}: within the interval"
    return f"{'raises' if row['value'] > 0 else 'lowers'} the {what}: {size}"


def _closed_form_figure(exact: Rows) -> Figure:
    dimensions = list(dict.fromkeys(r["n"] for r in exact))
    figure = new_figure(11.0, 2.9 * len(dimensions))
    panels = figure.subplots(len(dimensions), len(MEASURES), squeeze=False)
    for row, n in zip(panels, dimensions, strict=True):
        for axes, measure in zip(row, MEASURES, strict=True):
            names = (*FOUR, "none") if measure == "distance" else FOUR
            for name in names:
                rows = _pick(exact, n=n, measure=measure, term=name)
                x = [100 * r["clipped"] for r in rows]
                label = "none (unguided)" if name == "none" else name
                banded_line(axes, name, x, rows, label=label)
            # the bands of few scenes are wider than all that there is to see
            axes.set_ylim(0, 1.5 * max(max(line.get_ydata()) for line in axes.lines))
            dress(axes, f"n = {n}", "clipped coordinates of â₁ (%)", _TITLES[measure])
            axes.yaxis.label.set_size(8)
    legend_beside(panels[0, -1])
    return figure


def _gradient_figure(trained: Rows) -> Figure:
    figure = new_figure(11.0, 3.4)
    share, change, variance = figure.subplots(1, 3)
    timed = [r for r in trained if r["time"] != "all"]
    rows = _pick(timed, measure="clipped")
    banded_line(share, "none", [r["time"] for r in rows], [_percent(r) for r in rows])
    share.set_ylim(bottom=0)
    dress(share, "", "t", "clipped coordinates of â₁ (%)")
    for axes, measure, names in (
        (change, "change", (MASK, JACOBIAN, BOTH)),
        (variance, "variance", FOUR),
    ):
        for name in names:
            rows = _pick(timed, measure=measure, term=name)
            banded_line(axes, name, [r["time"] for r in rows], rows)
    dress(change, "", "t", "‖G − G_qgf‖ / ‖G_qgf‖")
    dress(variance, "", "t", "variance of G / ‖G‖² at σ = 0.1")
    variance.set_yscale("log")
    legend_beside(variance)
    return figure


def _percent(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{k: 100 * row[k] for k in ("value", "low", "high")}}


def _success_figure(played: Rows) -> Figure:
    figure = new_figure(10.0, 3.6)
    curve, bars = figure.subplots(1, 2)
    for name in FOUR:
        rows = _pick(played, split="selection", term=name)
        banded_line(curve, name, [r["weight"] for r in rows], rows)
        row = _pick(_chosen(played), term=name)[0]
        reach = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        look = curve.lines[-1]
        bars.errorbar(
            FOUR.index(name),
            row["value"],
            yerr=reach,
            color=look.get_color(),
            marker=look.get_marker(),
            capsize=4,
            linestyle="",
            label=name,
        )
    curve.set_xscale("log")
    dress(curve, "selection episodes (band: 95%)", "guidance weight w", "success")
    dress(bars, "held-out episodes, at the chosen weight", "", "success (95% interval)")
    bars.set_xticks(range(len(FOUR)), [HEADS[name] for name in FOUR])
    for axes in (curve, bars):
        axes.set_ylim(-0.02, 1.04)
    legend_beside(bars)
    return figure
