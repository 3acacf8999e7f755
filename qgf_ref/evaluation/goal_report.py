"""What an evaluation on goals tells besides: success goal by goal, and what its critic's Q is."""

from __future__ import annotations

from typing import Any

from qgf_ref.evaluation.goals import by_goal
from qgf_ref.evaluation.plots import title
from qgf_ref.evaluation.protocol import Evaluation
from qgf_ref.evaluation.settings import HELD_OUT
from qgf_ref.evaluation.statistics import prefixed
from qgf_ref.tables import Table

GOALS_CRITIC_NOTE = (
    "Q: probability, discounted, of reaching the goal, as the critic that guides has it of the "
    "executed chunk; return: γ to the power of the steps that it took, 0 where it was not reached; "
    "bias: mean of Q − return, 95% by resampling episodes; cut: share of episodes ended by the "
    "time limit; ended: the bias without those; ECE: expected calibration error, the mean distance "
    "of Q and return over eight bins of equally many chunks. DQC's critic values a chunk by what "
    "good actions after it would earn, so a method that goes on badly (BC) has a bias even under "
    "an exact critic."
)


def of_goals(evaluation: Evaluation) -> bool:
    """Whether goals were to be reached, by checkpoints that take them."""
    return "goal_dim" in evaluation.checkpoints[0]


def goal_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Success of each method and goal at each weight, with Wilson's intervals, held out first."""
    return [
        {"method": cell.method.label, "weight": cell.weight, "split": cell.split, "goal": goal,
         **prefixed("success", rate)}
        for cell in (*evaluation.held_out, *evaluation.selection)
        for goal, rate in by_goal(
            [e.seed for e in cell.episodes], [e.success for e in cell.episodes]
        ).items()
    ]  # fmt: skip


def goal_table(evaluation: Evaluation) -> Table:
    """Held out, a row a method and a column a goal, for the terminal."""
    body: dict[str, list[str]] = {}
    every = [row for row in goal_rows(evaluation) if row["split"] == HELD_OUT]
    for row in every:
        line = body.setdefault(title(row["method"], row["weight"]), [])
        low, high = row["success_low"], row["success_high"]
        line.append(f"{row['success']:.0%} ({100 * low:.0f}–{100 * high:.0f})")
    goals = dict.fromkeys(f"goal {row['goal']}" for row in every)
    return ["method", *goals], [[name, *line] for name, line in body.items()]
