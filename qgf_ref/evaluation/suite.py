"""What a table of results is made of: tasks pooled, training seeds, differences, Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qgf_ref.evaluation.critic_error import chunks, critic_error
from qgf_ref.evaluation.goal_report import goal_rows, of_goals
from qgf_ref.evaluation.protocol import Cell, Evaluation
from qgf_ref.evaluation.report import rows
from qgf_ref.evaluation.settings import Settings
from qgf_ref.evaluation.statistics import paired_difference, prefixed, wilson
from qgf_ref.tables import formatted, markdown_table


def pooled(evaluations: Sequence[Evaluation], name: str) -> Evaluation:
    """All tasks' episodes as those of one evaluation; held-out cells lose their weights, which may
    differ from task to task.
    """
    first, alone = evaluations[0], len(evaluations) == 1

    def join(cells: Sequence[Cell], weight: float | None) -> Cell:
        return replace(
            cells[0],
            weight=weight,
            by_checkpoint=tuple(each for cell in cells for each in cell.by_checkpoint),
            sampling_seconds=sum(c.sampling_seconds for c in cells),
            stepping_seconds=sum(c.stepping_seconds for c in cells),
        )

    def joined(split: str, *, keep: bool) -> tuple[Cell, ...]:
        by_method = zip(*(getattr(e, split) for e in evaluations), strict=True)
        return tuple(join(cells, cells[0].weight if keep else None) for cells in by_method)

    return replace(
        first,
        task=name,
        checkpoints=tuple(c for e in evaluations for c in e.checkpoints),
        selection=joined("selection", keep=True),
        held_out=joined("held_out", keep=alone),
    )


def seed_range(cells: Sequence[Cell]) -> tuple[float, float]:
    """Lowest and highest success over training seeds, each averaged over the tasks."""
    rates = [sum(each) / len(cells) for each in zip(*(c.rates for c in cells), strict=True)]
    return min(rates), max(rates)


def minus_qgf(whole: Evaluation, cell: Cell) -> dict[str, float | None]:
    """Success minus that of qgf on the same held-out episodes, with its 95% interval."""
    qgf = next((c for c in whole.held_out if c.method.label == "qgf"), None)
    if qgf is None or qgf is cell:
        return prefixed("minus_qgf", None)
    wins = [[e.success for e in each.episodes] for each in (cell, qgf)]
    return prefixed("minus_qgf", paired_difference(*wins))


def suite_rows(evaluations: Sequence[Evaluation], whole: Evaluation) -> list[dict[str, Any]]:
    """One row a method: the report's, and success, weight and optimism by task.

    whole  the `pooled` evaluations
    """
    table = []
    for i, (cell, row) in enumerate(zip(whole.held_out, rows(whole), strict=True)):
        by_task = [e.held_out[i] for e in evaluations]
        optimistic = [o for e in evaluations if (o := e.optimistic(cell.method)) is not None]
        error = critic_error(chunks(cell))
        low, high = seed_range(by_task)
        table.append(
            row
            | {
                "seeds_low": low,
                "seeds_high": high,
                "by_task": [c.success.value for c in by_task],
                "weights": [c.weight for c in by_task],
                "optimistic": sum(optimistic) / len(optimistic) if optimistic else None,
                "critic_bias": None if error is None else error.bias.value,
                "critic_rank": None if error is None else error.rank,
                **minus_qgf(whole, cell),
                **(_of_goals(whole, cell) if of_goals(whole) else {}),
            }
        )
    return table


def _of_goals(whole: Evaluation, cell: Cell) -> dict[str, Any]:
    """Success goal by goal, and the critic's expected calibration error."""
    by_goal = [row["success"] for row in goal_rows(replace(whole, held_out=(cell,), selection=()))]
    error = critic_error(chunks(cell))
    return {"by_goal": by_goal, "critic_ece": None if error is None else error.ece}


def suite_summary(
    name: str, table: Sequence[dict[str, Any]], tasks: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What figures of all tasks together are drawn from: their `suite_rows`, and every task's
    `qgf_ref.evaluation.report.summary`, as they were written.
    """
    settings, selection = tasks[0]["settings"], []
    for cells in zip(*(task["selection"] for task in tasks), strict=True):
        rates = [rate for cell in cells for rate in cell["by_checkpoint"]]
        each = settings["selection_episodes"]
        success = wilson(sum(round(rate * each) for rate in rates), each * len(rates))
        where = {column: cells[0][column] for column in ("method", "weight")}
        selection.append({**where, **prefixed("success", success), "by_checkpoint": rates})
    checkpoints = [checkpoint for task in tasks for checkpoint in task["checkpoints"]]
    return {"task": name, "settings": settings, "checkpoints": checkpoints, "rows": list(table),
            "selection": selection}  # fmt: skip


def suite_markdown(
    table: Sequence[dict[str, Any]],
    settings: Settings,
    made: tuple[str, str],
    seeds: int,
    *,
    paired: bool,
) -> str:
    """The rows for a page, and a sentence on how they were made.

    made    what was trained, and what makes the table: ("10,000 updates", "`command`")
    paired  with a column of the differences to qgf, episode by episode
    """
    tasks = len(table[0]["by_task"])
    named = [f"task {n}" for n in range(1, tasks + 1)] if tasks > 1 else []
    goals = "by_goal" in table[0]
    columns = "by_goal" if goals else "by_task"
    if goals:
        named = [f"goal {n}" for n in range(1, len(table[0]["by_goal"]) + 1)]
    header = ["method", "success", "95%", "seeds", *named, "w", "optimistic", "Q − return"]
    header += ["ECE"] * goals
    if paired:
        header.insert(3, "− qgf (95%)")
    lines = []
    for row in table:
        cells = [
            f"`{row['method']}`",
            f"**{row['success']:.2f}**",
            f"{row['success_low']:.2f}–{row['success_high']:.2f}",
            f"{row['seeds_low']:.2f}–{row['seeds_high']:.2f}",
            *([f"{success:.2f}" for success in row[columns]] if named else []),
            " ".join(f"{w:g}" for w in sorted({w for w in row["weights"] if w is not None})),
            formatted(row["optimistic"], ".2f", ""),
            formatted(row["critic_bias"], "+.2f" if goals else "+.1f", ""),
            *([formatted(row["critic_ece"], ".2f", "")] if goals else []),
        ]
        if paired:
            cells.insert(3, difference_text(row))
        lines.append(cells)
    updates, command = made
    each = "each task and method" if tasks > 1 else "each method"
    return (
        markdown_table(header, lines, rule="|---")
        + f"\n\n{updates}, {seeds} training seed{'s' * (seeds > 1)}; "
        f"{seeds * settings.episodes} held-out episodes for {each}, its weight w chosen on "
        f"{seeds * settings.selection_episodes} others. Made by {command}.\n"
    )


def weights_by_goal(whole: Evaluation, method: str) -> str:
    """Success of a method on the selection episodes, a row a weight and a column a goal."""
    body: dict[float, list[str]] = {}
    every = [row for row in goal_rows(replace(whole, held_out=())) if row["method"] == method]
    for row in every:
        body.setdefault(row["weight"], [f"{row['weight']:g}"]).append(f"{row['success']:.2f}")
    for cell in whole.selection:
        if cell.method.label == method and cell.weight is not None:
            rate = cell.success
            body[cell.weight].append(f"{rate.value:.2f} ({rate.low:.2f}–{rate.high:.2f})")
    header = ["w", *dict.fromkeys(f"goal {row['goal']}" for row in every), "all (95%)"]
    return markdown_table(header, [body[w] for w in sorted(body)], rule="|---")


def difference_text(row: dict[str, Any]) -> str:
    """+0.03 (−0.01 +0.07), or nothing for qgf itself."""
    if row["minus_qgf"] is None:
        return ""
    low, high = row["minus_qgf_low"], row["minus_qgf_high"]
    return f"{row['minus_qgf']:+.2f} ({low:+.2f} {high:+.2f})".replace("-", "−")
