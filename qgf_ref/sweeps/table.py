"""The tables of a sweep, from its result files: at any time, saying what is missing.

`table.csv`, `.md` and `.json` hold what episodes decide and nothing that a machine's speed does;
`costs.csv` holds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.evaluation.aggregates import aggregate, improvement
from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.evaluation.statistics import paired_difference, prefixed, student_mean, wilson
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.flops import flops
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.tables import formatted, markdown_table

NOTE = (
    "success: mean over tasks and training seeds of the held-out episodes; 95%: Wilson, over "
    "episodes, for these runs; seeds: Student's t over training seeds, each averaged over the "
    "tasks; IQM: interquartile mean of the runs, stratified bootstrap over seeds, as rliable; − {b}"
    ": paired difference on the same episodes (Newcombe); P(> {b}): probability that a run is "
    "better than one of {b}; optimistic: the highest success over weights or tried values, on the "
    "episodes that they were chosen on."
)


@dataclass(frozen=True)
class LabelResults:
    """One label on every task that has a result: {task: (wins of each seed)}, its entry, cells."""

    label: str
    entry: SpecEntry
    cells: dict[str, dict[str, Any]]
    optimistic: dict[str, float | None]
    values: dict[str, str]

    def scores(self, tasks: Sequence[str]) -> Array:
        """Success (seeds, tasks)."""
        return np.array([[np.mean(w) for w in self.wins(name)] for name in tasks]).T

    def wins(self, name: str) -> list[list[int]]:
        """Of a task, seed by seed."""
        return [each["wins"] for each in self.cells[name]["by_seed"]]


def gather(sweep: Sweep) -> tuple[list[LabelResults], list[str]]:
    """What was played, in the order of the spec, and what is missing, in words."""
    played: dict[str, LabelResults] = {}
    missing = []
    for entry in sweep.spec.entries:
        for name in sweep.spec.tasks:
            result = sweep.result(name, entry)
            if result is None:
                missing.append(f"{entry.name} on {name}")
                continue
            for cell in result["cells"]:
                if cell["split"] != HELD_OUT:
                    continue
                label = cell["label"]
                here = played.setdefault(label, LabelResults(label, entry, {}, {}, {}))
                here.cells[name] = cell
                here.optimistic[name] = _optimistic(result, cell)
                here.values[name] = _value(result, cell)
    return list(played.values()), missing


def rows(sweep: Sweep, played: Sequence[LabelResults]) -> list[dict[str, Any]]:
    """One row a label: over the tasks that it has, which may not be all."""
    baseline = next((p for p in played if p.label == sweep.spec.baseline), None)
    table = []
    for each in played:
        tasks = [name for name in sweep.spec.tasks if name in each.cells]
        scores = each.scores(tasks)
        wins = [w for name in tasks for seed in each.wins(name) for w in seed]
        optimistic = [o for name in tasks if (o := each.optimistic[name]) is not None]
        biases = [b for n in tasks if (b := each.cells[n]["critic_bias"]) is not None]
        table.append(
            {
                "method": each.label,
                "tasks": len(tasks),
                "of_tasks": len(sweep.spec.tasks),
                "seeds": len(scores),
                "episodes": len(wins),
                **prefixed("success", wilson(sum(wins), len(wins))),
                **prefixed("seeds_success", student_mean(scores.mean(axis=1))),
                **prefixed("iqm", aggregate(scores)),
                **_against(baseline, each, tasks),
                "optimistic": sum(optimistic) / len(optimistic) if optimistic else None,
                "critic_bias": sum(biases) / len(biases) if biases else None,
                **{f"on {n}": _rate(each, n) for n in sweep.spec.tasks},
                "chosen": " ".join(dict.fromkeys(v for n in tasks if (v := each.values[n]))),
            }
        )
    return table


def costs(sweep: Sweep) -> list[dict[str, Any]]:
    """One row for each entry, task and label: seconds and milliseconds, of the machines named, and
    FLOPs of matrix products: of a chunk, and of all updates (of results from before they were kept
    from the runs, if those are still there).
    """
    table = []
    for entry in sweep.spec.entries:
        for name in sweep.spec.tasks:
            result = sweep.result(name, entry)
            if result is None:
                continue
            spent = result["costs"]
            if "flops_per_chunk" not in spent:
                spent = {**spent, **flops(sweep, name, entry, result["chosen"])}
            each_update, of_chunk = spent.get("flops_per_update"), spent.get("flops_per_chunk", {})
            learned = None if each_update is None else each_update * spent["updates"]
            tries = [sweep.result(name, entry, v) for v in entry.values]
            tried = sum(t["costs"]["training_seconds"] for t in tries if t is not None)
            for label, milliseconds in spent["milliseconds_per_chunk"].items():
                table.append(
                    {
                        "entry": entry.name, "task": name, "method": label,
                        "training_seconds": spent["training_seconds"],
                        "seconds_of_tried_values": round(tried, 1) or None,
                        "updates": spent["updates"], "training_flops": learned,
                        "milliseconds_per_chunk": milliseconds,
                        "flops_per_chunk": of_chunk.get(label),
                        "machines": "; ".join(spent["machines"]),
                    }
                )  # fmt: skip
    return table


def markdown(sweep: Sweep, table: Sequence[dict[str, Any]], missing: Sequence[str]) -> str:
    """The table for a page, and how it was made."""
    spec = sweep.spec
    named = [f"task {i}" for i in range(1, len(spec.tasks) + 1)] if len(spec.tasks) > 1 else []
    base = spec.baseline
    header = ["method", "success", "95%", "seeds", "IQM", f"− {base}", f"P(> {base})", *named]
    header += ["chosen", "optimistic"]
    lines = []
    for row in table:
        short = f" ({row['tasks']} of {row['of_tasks']} tasks)" * (row["tasks"] < row["of_tasks"])
        lines.append(
            [
                f"`{row['method']}`{short}",
                f"**{row['success']:.2f}**",
                _span(row, "success"),
                _over_seeds(row, "seeds_success"),
                f"{row['iqm']:.2f}" + f" ({_span(row, 'iqm')})" * (row["seeds"] > 1),
                _signed(row),
                _value_span(row, "improvement"),
                *([formatted(row[f"on {n}"], ".2f", "") for n in spec.tasks] if named else []),
                row["chosen"],
                formatted(row["optimistic"], ".2f", ""),
            ]
        )
    made = f"\n\n{NOTE.format(b=base)}\n"
    if named:
        which = ", ".join(f"{label}: {n}" for label, n in zip(named, spec.tasks, strict=True))
        made += f"\n{which}.\n"
    if missing:
        made += f"\nMissing: {'; '.join(missing)}.\n"
    return markdown_table(header, lines, rule="|---") + made


def terminal(sweep: Sweep, table: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for a terminal, within 100 columns."""
    base = sweep.spec.baseline
    header = ["method", "tasks", "success", "95%", "seeds", "IQM", f"− {base}", "95%", "max"]
    body = []
    for row in table:
        low, high = row["minus_low"], row["minus_high"]
        body.append(
            [
                row["method"],
                f"{row['tasks']}/{row['of_tasks']}",
                f"{row['success']:.2f}",
                _span(row, "success"),
                _over_seeds(row, "seeds_success"),
                f"{row['iqm']:.2f}",
                formatted(row["minus"], "+.2f", ""),
                "" if low is None else f"{low:+.2f} {high:+.2f}",
                formatted(row["optimistic"], ".2f", ""),
            ]
        )
    return header, body


def _against(
    baseline: LabelResults | None, each: LabelResults, tasks: Sequence[str]
) -> dict[str, Any]:
    """Paired difference to the baseline and probability of improvement, on the tasks of both."""
    both = [] if baseline is None else [name for name in tasks if name in baseline.cells]
    if baseline is None or each is baseline or not both:
        return {**prefixed("minus", None), **prefixed("improvement", None)}
    flat = [[bool(w) for n in both for s in p.wins(n) for w in s] for p in (each, baseline)]
    difference = paired_difference(*flat) if len(flat[0]) == len(flat[1]) else None
    better = improvement(each.scores(both), baseline.scores(both))
    return {**prefixed("minus", difference), **prefixed("improvement", better)}


def _optimistic(result: dict[str, Any], cell: dict[str, Any]) -> float | None:
    """The highest success over weights, or over tried values, on the episodes of the choice."""
    curve = [
        float(np.mean([w for s in c["by_seed"] for w in s["wins"]]))
        for c in result["cells"]
        if c["split"] == SELECTION and c["method"] == cell["method"] and c["weight"] is not None
    ]
    if result.get("tried_by") == cell["method"]:  # at the best weight of each value
        curve += [float(t["success"]) for t in result["tried"]]
    return max(curve, default=None)


def _value(result: dict[str, Any], cell: dict[str, Any]) -> str:
    weight = "" if cell["weight"] is None else f"w={cell['weight']:g}"
    return " ".join(part for part in (result["chosen"], weight) if part)


def _rate(each: LabelResults, name: str) -> float | None:
    if name not in each.cells:
        return None
    return float(np.mean([w for seed in each.wins(name) for w in seed]))


def _span(row: dict[str, Any], name: str) -> str:
    return f"{max(row[f'{name}_low'], 0):.2f}–{min(row[f'{name}_high'], 1):.2f}"


def _over_seeds(row: dict[str, Any], name: str) -> str:
    """An interval over seeds: there is none of one."""
    return _span(row, name) if row["seeds"] > 1 else ""


def _value_span(row: dict[str, Any], name: str) -> str:
    return "" if row[name] is None else f"{row[name]:.2f} ({_span(row, name)})"


def _signed(row: dict[str, Any]) -> str:
    if row["minus"] is None:
        return ""
    text = f"{row['minus']:+.2f} ({row['minus_low']:+.2f} {row['minus_high']:+.2f})"
    return text.replace("-", "−")
