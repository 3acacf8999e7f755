"""A comparison as text of at most 100 columns, and as a heat map."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import Comparison
from qgf_ref.crosscheck.sampler.case import PEAK_LIMIT, RMS_LIMIT, Judgement
from qgf_ref.crosscheck.sampler.outcome import Diagnosis, Explanation
from qgf_ref.interop.trace_file import CAUSAL
from qgf_ref.page import facts, figure, html_table, page
from qgf_ref.plotting import new_figure, png
from qgf_ref.tables import Table, text_table

WIDTH = 98
COLUMNS = 10
MOST_COLUMNS = 100
LEAST, MOST = 0.1, 1e6
"""The ends of the picture's colours."""
MANY = 4
"""More explanations than this mean that there is too little to explain."""


def text(result: Comparison) -> str:
    """Verdict, where, how much, why, and what to do next."""
    case = result.case
    n = f", best of {case.best_of}" if case.best_of > 1 else ""
    precision = "float32" if case.single else "float64"
    lines = [
        f"{'AGREES' if result.agrees else 'DISAGREES'}: {case.label}",
        f"{len(case.inputs.obs)} rows{n}, T = {result.setting.denoise_steps}, "
        f"{result.setting.how(case.weight)}, {precision}",
        f"{'flow' if result.setting.opaque else 'checkpoint'} {result.setting.checkpoint.source}",
    ]
    if result.first is not None:
        lines += ["", f"first disagreement: {place(*result.first, result.diagnosis.places)}"]
    if result.worst is not None:
        lines += wrapped(f"worst element {result.worst}", "  ")
    if result.forced:
        lines += ["", "teacher-forced (every quantity from *their* inputs of it): error / rounding"]
        lines += _table(result.forced)
        action = result.free["action"]
        lines.append(f"free-running from their noise: action {_shown(float(action.ratio[0]))}")
    else:
        lines += ["", "free-running from their noise: error / rounding"]
        lines += _table(result.free)
    ours = "our own float32 runs, summed in several orders"
    if result.setting.opaque:
        ours = "runs of the flow whose networks' numbers are off by units of it"
    lines += wrapped(
        f"1 = what {precision} rounding explains ({ours}); "
        f"! = beyond {RMS_LIMIT:g} × their spread, or an element beyond {PEAK_LIMIT:g}",
        "  ",
    )
    if result.rows_undecided:
        lines.append(
            f"  {result.rows_undecided} rows not compared: rounding decides a branch there"
        )
    lines += [line for note in result.notes for line in wrapped(f"note: {note}", "  ")]
    return "\n".join([*lines, "", *_why(result)])


def _why(result: Comparison) -> list[str]:
    lines = diagnosis_lines(result.diagnosis)
    if result.alike:
        lines += wrapped(f"On these inputs also: {' or '.join(map(str, result.alike))}.", "  ")
    if result.separate is not None:
        lines += wrapped(f"To tell them apart, run your sampler with {result.separate.why}.", "  ")
    elif result.diagnosis.ambiguous:
        lines.append("  No input that we know of separates them on this checkpoint.")
    if result.diagnosis.ambiguous or result.alike:
        lines.append("  The same on these inputs; confirm with check_sampler.")
    if result.hidden:
        names = ", ".join(result.hidden)
        lines += wrapped(f"This trace would not show: {names}.", "  ")
    return lines


def place(step: int, quantity: str, places: Mapping[str, str]) -> str:
    """A quantity and a step in words."""
    where = "" if quantity == "action" else f" at step {step}"
    return f"{quantity}{where}, {places[quantity]}"


def headline(diagnosis: Diagnosis, call: str = "") -> str:
    """The diagnosis in a few words. call: the one in which an unknown difference shows first."""
    if diagnosis.record:
        return "; ".join(("your sampler agrees", *diagnosis.record))
    if diagnosis.unknown is not None:
        return f"unknown at {diagnosis.unknown}" + (f" (call '{call}')" if call else "")
    return " or ".join(
        "; ".join((" + ".join(e.names), *e.record)) for e in diagnosis.explanations[:MANY]
    )


def diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    """The mistakes by name, or what is known of an unknown one."""
    if diagnosis.agrees:
        return ["DIAGNOSIS: nothing to explain; every recorded number is within rounding."]
    if diagnosis.record:
        return [
            *wrapped(f"DIAGNOSIS: {headline(diagnosis)}.", ""),
            *wrapped("Its final actions are the reference's to rounding: mend what you write down.",
                     "  "),
        ]  # fmt: skip
    if diagnosis.unknown is not None:
        return _unknown(diagnosis)
    lines = ["DIAGNOSIS"]
    if diagnosis.ambiguous:
        count = len(diagnosis.explanations)
        lines = [f"DIAGNOSIS: ambiguous, {count} explanations reproduce everything to rounding"]
    for rank, explanation in enumerate(diagnosis.explanations[:8], 1):
        lines += _explained(rank, explanation, diagnosis.hints)
    if len(diagnosis.explanations) > 8:
        rest = [" + ".join(e.names) for e in diagnosis.explanations[8:]]
        lines += wrapped(f"and {len(rest)} more: {'; '.join(rest)}", "  ")
    if len(diagnosis.explanations) > MANY:
        lines += wrapped(
            "The record says little: write down more rows, or the quantities of each step.", "  "
        )
    for fact in diagnosis.known:
        lines += wrapped(f"{fact}.", "  ")
    return lines


def _explained(rank: int, explanation: Explanation, hints: Mapping[str, str]) -> list[str]:
    lines = []
    for i, made in enumerate(explanation.mistakes):
        mark = f"{rank}. " if i == 0 else "   and "
        lines.append(f"{mark}{made}, enters at {made.mistake.first}")
        lines += wrapped(made.mistake.says, "   ")
        lines += wrapped(hints.get(str(made), ""), "   ", whole=True)
    others = sorted({str(made) for also in explanation.variants for made in also}
                    - {str(made) for made in explanation.mistakes})  # fmt: skip
    if others:
        lines += wrapped(f"as well as: {', '.join(others)}", "   ")
    for line in explanation.record:
        lines += wrapped(f"and {line}", "   ")
    lines.append(
        f"   reproduces every recorded number; largest error {explanation.excess:.2g} of the limit"
    )
    return lines


def _unknown(diagnosis: Diagnosis) -> list[str]:
    name = str(diagnosis.unknown)
    lines = wrapped(
        f"DIAGNOSIS: unknown. No mistake of the bank ({diagnosis.singles} variants, "
        f"{diagnosis.pairs} of {diagnosis.possible_pairs} pairs simulated) reproduces {name}, "
        f"{diagnosis.places[name]}.",
        "",
    )
    before = [" + ".join(map(str, made)) for made in diagnosis.so_far if made]
    if before:
        lines += wrapped(f"What comes before it is explained by: {' or '.join(before)}.", "  ")
    for fact in diagnosis.known:
        lines += wrapped(f"{name}: {fact}", "  ")
    for near in diagnosis.nearest:
        share = f"explains {100 * near.explained:.1f} % of the squared error"
        lines += wrapped(f"nearest: {near.made}, {share}", "  ")
    lists = "; `qgf-ref explain` lists the reference's operations" if diagnosis.explained else ""
    lines += wrapped(f"Look at how your code computes {name}{lists}.", "  ")
    return lines


def _table(judged: dict[str, Judgement]) -> list[str]:
    header, rows = table(judged, COLUMNS)
    words = text_table(header, rows, left=(0,), least=8, gap="")
    return textwrap.indent(words, "  ").split("\n")


def table(judged: dict[str, Judgement], most: int) -> Table:
    """Error over rounding by quantity and step, at most so many steps; ! marks what is beyond."""
    steps = max(len(j.ratio) for j in judged.values())
    shown = np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int))
    rows = [
        [name, *(_cell(judged[name], int(k)) for k in (shown if name != "action" else shown[:1]))]
        for name in CAUSAL
        if name in judged
    ]
    rows = [row + [""] * (len(shown) + 1 - len(row)) for row in rows]
    return ["", *(f"k={k}" for k in shown)], rows


def _cell(judged: Judgement, k: int) -> str:
    return _shown(_over_rounding(judged, k)) + ("!" if judged.excess[k] > 1 else "")


def _over_rounding(judged: Judgement, k: int) -> float:
    """Error over rounding; beyond the limit the larger of the two that are limited."""
    ratio, peak = float(judged.ratio[k]), float(judged.peak[k])
    return max(ratio, peak) if judged.excess[k] > 1 else ratio


def _shown(value: float) -> str:
    if not np.isfinite(value):
        return "inf"
    return f"{value:.1f}" if value < 100 else f"{value:.0e}".replace("e+0", "e")


def wrapped(words: str, indent: str, whole: bool = False) -> list[str]:
    """The words in lines of at most WIDTH columns; whole: words with hyphens, as flags, too."""
    return textwrap.wrap(
        words, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=not whole
    )


def heat_map(result: Comparison) -> bytes:
    """A PNG: error over rounding, the text's numbers, by quantity and step. Blue is rounding."""
    from matplotlib.colors import LogNorm

    names = [name for name in CAUSAL if name in result.judged]
    steps = max(len(result.judged[name].ratio) for name in names)
    colour: Array = np.full((len(names), steps), np.nan)
    words: dict[tuple[int, int], str] = {}
    for i, name in enumerate(names):
        judged = result.judged[name]
        for k in range(len(judged.ratio)):
            at = steps - 1 if name == "action" else k
            value = np.nan_to_num(_over_rounding(judged, k), nan=MOST, posinf=MOST)
            # the limit depends on how far our own runs spread: its colour does not
            beyond = judged.excess[k] > 1
            colour[i, at] = max(value, 1.01 * RMS_LIMIT) if beyond else min(value, RMS_LIMIT)
            words[i, at] = _cell(judged, k)
    canvas = new_figure(max(5.6, 1.9 + 0.52 * min(steps, 20)), 1.4 + 0.42 * len(names))
    axes = canvas.add_subplot()
    image = axes.imshow(
        np.clip(colour, LEAST, MOST), norm=LogNorm(LEAST, MOST), cmap=_colours(), aspect="auto"
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(0, steps, max(1, steps // 10)))
    axes.set_xlabel("denoising step k (action: after the last)")
    kind = "teacher-forced" if result.forced else "free-running"
    verdict = "agrees" if result.agrees else "disagrees"
    axes.set_title(f"{verdict} ({kind}): error / rounding", fontsize=10, loc="left")
    if steps <= 20:
        for (i, k), label in words.items():
            dark = colour[i, k] > 3e2 or colour[i, k] < 0.5
            axes.text(k, i, label, ha="center", va="center", fontsize=6.5,
                      color="white" if dark else "black")  # fmt: skip
    bar = canvas.colorbar(image, ax=axes, ticks=[0.1, 1, RMS_LIMIT, 100, 1e4, MOST])
    bar.ax.set_yticklabels(
        ["0.1", "1 = rounding", f"{RMS_LIMIT:g} = limit", "100", "1e4", "≥ 1e6"], fontsize=7
    )
    bar.ax.minorticks_off()
    return png(canvas)


def _colours() -> Any:
    """Blues up to the limit, reds beyond it, from one that cannot be taken for nothing."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    calm = round(256 * np.log(RMS_LIMIT / LEAST) / np.log(MOST / LEAST))
    blues = colormaps["Blues_r"](np.linspace(0.3, 0.95, calm))
    reds = colormaps["Reds"](np.linspace(0.5, 1.0, 256 - calm))
    return ListedColormap(np.concatenate([blues, reds]))


def html(result: Comparison, origin: dict[str, Any], picture: bytes | None = None) -> bytes:
    """The comparison as one page, with the picture in it. origin: how it was made."""
    case, d = result.case, result.diagnosis
    verdict = "agrees" if result.agrees else f"disagrees: {headline(d)}"
    sections = {}
    if result.worst is not None and result.first is not None:
        first = (
            f"first disagreement: {place(*result.first, d.places)}; worst element {result.worst}"
        )
        sections["Where"] = f"<p>{escape(first)}</p>"
    caption = "Error over what rounding explains; rows in causal order, each from their inputs."
    sections["How much"] = "" if picture is None else figure(picture, caption)
    sections["How much"] += html_table(*table(result.judged, MOST_COLUMNS))
    sections["Why"] = f"<pre>{escape(chr(10).join(_why(result)))}</pre>"
    about = {
        "trace": case.label, "checkpoint": result.setting.checkpoint.source,
        "rows": len(case.inputs.obs), "denoising steps": result.setting.denoise_steps,
        "estimator": result.setting.method, "weight": case.weight, **origin,
    }  # fmt: skip
    sections["How this was made"] = facts(about)
    return page(f"Cross-check of {case.label}", verdict, result.agrees, sections)
