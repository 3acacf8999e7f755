"""The evaluation as tables, a page, a JSON, two CSVs, an npz and three figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from qgf_ref.evaluation.critic_error import CriticError, chunks, critic_error, table_of_chunks
from qgf_ref.evaluation.goal_report import GOALS_CRITIC_NOTE, goal_rows, goal_table, of_goals
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.plots import (
    calibration_figure,
    success_figure,
    title,
    weights_figure,
)
from qgf_ref.evaluation.protocol import Cell, Evaluation, best
from qgf_ref.evaluation.records import FILE as RECORDS
from qgf_ref.evaluation.statistics import bootstrap_mean, paired_difference, prefixed
from qgf_ref.files import csv_bytes, write_atomically, write_json, write_npz
from qgf_ref.page import facts, figure, html_table, note, page
from qgf_ref.plotting import can_draw, png
from qgf_ref.tables import Table, formatted
from qgf_ref.tracking import Tracking

FILES = (
    "evaluation.html",
    "evaluation.json",
    "episodes.csv",
    "critic_error.csv",
    "critic_error.npz",
    "success.png",
    "weights.png",
    "calibration.png",
    RECORDS,
)
"""Everything that an evaluation may write into its directory."""

SUCCESS_NOTE = (
    "success: held-out episodes of all checkpoints, 95% Wilson interval (over episodes, for these "
    "checkpoints); − BC: paired difference, 95% (Newcombe); "
    "return: mean of the undiscounted returns, 95% bootstrap; max: what the official script "
    "reports, the maximum over weights on the very episodes that it is measured on, here the "
    "selection episodes (fewer episodes, more optimism)."
)
CRITIC_NOTE = (
    "Q: target critic of the executed chunk; return: the discounted return that followed; bias: "
    "mean of Q − return, 95% by resampling episodes; cut: share of episodes ended by the time "
    "limit, whose last reward is taken to go on forever; ended: the bias without those. An "
    "IQL critic values a chunk by what good actions after it would earn, so a method that goes on "
    "badly (BC) has a bias even under an exact critic."
)


def critic_note(evaluation: Evaluation) -> str:
    """What the columns of `critic_table` are."""
    return GOALS_CRITIC_NOTE if of_goals(evaluation) else CRITIC_NOTE


def rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row of results for each method, on the held-out episodes at its chosen weight."""
    unguided = next((c for c in evaluation.held_out if c.method == Method()), None)
    return [_row(evaluation, cell, unguided) for cell in evaluation.held_out]


def selection_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each method and weight on the selection episodes."""
    chosen = {(c.method, c.weight) for c in evaluation.held_out}
    return [
        {
            "method": cell.method.label,
            "weight": cell.weight,
            **prefixed("success", cell.success),
            "mean_return": cell.mean_reward,
            "by_checkpoint": list(cell.rates),
            "chosen": (cell.method, cell.weight) in chosen,
        }
        for cell in evaluation.selection
    ]


def critic_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The critic's error on every cell: over all episodes, and over those that ended themselves."""
    errors = []
    for cell in (*evaluation.held_out, *evaluation.selection):
        of_cell = chunks(cell)
        for only in (False, True):
            error = critic_error(of_cell, terminated_only=only)
            if error is not None:
                errors.append(
                    {
                        "method": cell.method.label,
                        "weight": cell.weight,
                        "split": cell.split,
                        "episodes_used": "terminated" if only else "all",
                        **_error(error),
                    }
                )
    return errors


def success_table(evaluation: Evaluation) -> Table:
    """Header and rows for the terminal, at most 98 columns."""
    header = ["method", "w", "success", "95%", "− BC", "95%", "return", "95%", "max"]
    several = len(evaluation.checkpoints) > 1
    if several:
        header.insert(4, "seeds")
    body = []
    for row in rows(evaluation):
        line = [
            row["method"],
            formatted(row["weight"], "g", ""),
            f"{row['success']:.2f}",
            f"{row['success_low']:.2f}–{row['success_high']:.2f}",
            formatted(row["minus_bc"], "+.2f", ""),
            ""
            if row["minus_bc"] is None
            else f"{row['minus_bc_low']:+.2f} {row['minus_bc_high']:+.2f}",
            f"{row['mean_return']:.0f}",
            f"{row['mean_return_low']:.0f} {row['mean_return_high']:.0f}",
            formatted(row["optimistic"], ".2f", ""),
        ]
        if several:
            rates = row["by_checkpoint"]
            line.insert(4, f"{min(rates):.2f}–{max(rates):.2f}")
        body.append(line)
    return header, body


def critic_table(evaluation: Evaluation) -> Table:
    """The critic's error on the held-out episodes, for the terminal."""
    header = ["method", "w", "Q", "return", "bias", "95%", "RMSE", "rank ρ", "cut", "ended"]
    header += ["ECE"] * of_goals(evaluation)
    body = []
    for cell in evaluation.held_out:
        of_cell = chunks(cell)
        error, ended = critic_error(of_cell), critic_error(of_cell, terminated_only=True)
        weight = formatted(cell.weight, "g", "")
        if error is None:
            body.append([cell.method.label, weight, *["–"] * (len(header) - 2)])
            continue
        # of a critic of probabilities, whose numbers lie in [0, 1]
        d = 1 if max(abs(error.q), abs(error.realised)) > 1 else 3
        body.append(
            [
                cell.method.label,
                weight,
                f"{error.q:.{d}f}",
                f"{error.realised:.{d}f}",
                f"{error.bias.value:+.{d}f}",
                f"{error.bias.low:+.{d}f} {error.bias.high:+.{d}f}",
                f"{error.rmse:.{d}f}",
                formatted(error.rank, ".2f"),
                f"{error.cut:.2f}",
                formatted(ended and ended.bias.value, f"+.{d}f"),
                *[f"{error.ece:.3f}"] * of_goals(evaluation),
            ]
        )
    return header, body


def write_report(evaluation: Evaluation, directory: Path, tracking: Tracking | None = None) -> None:
    """Write `FILES` (but for the records) into `directory`, which must exist; `tracking` is sent
    the rows and the figures.
    """
    cells = (*evaluation.held_out, *evaluation.selection)
    critic = critic_rows(evaluation)
    write_atomically(directory / "episodes.csv", csv_bytes(_episode_rows(cells)))
    write_atomically(directory / "critic_error.csv", csv_bytes(critic))
    write_npz(directory / "critic_error.npz", table_of_chunks(cells))
    about, pictures = summary(evaluation), {}
    for name, draw in (
        ("success", partial(success_figure, about)),
        ("weights", partial(weights_figure, about)),
        ("calibration", partial(calibration_figure, evaluation)),
    ):
        path = directory / f"{name}.png"
        drawn = draw() if can_draw() else None
        if drawn is not None:
            pictures[name] = png(drawn)
            write_atomically(path, pictures[name])
        else:
            path.unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    write_json(directory / "evaluation.json", about)
    write_atomically(directory / "evaluation.html", _html(evaluation, pictures))


def send(evaluation: Evaluation, directory: Path, tracking: Tracking) -> None:
    """Send the rows, and the figures that `write_report` left in `directory`."""
    tables = {"": rows(evaluation), "selection/": selection_rows(evaluation)}
    tracking.scalars(
        {
            f"{kind}{column}/{title(row['method'], row['weight'])}": value
            for kind, table in tables.items()
            for row in table
            for column, value in row.items()
            if column != "weight"
        },
        step=0,
    )
    for picture in sorted(directory.glob("*.png")):
        if picture.name in FILES:
            tracking.picture(picture.stem, picture.read_bytes())


def _html(evaluation: Evaluation, pictures: Mapping[str, bytes]) -> bytes:
    captions = {
        "success": "Held-out episodes at each method's chosen weight.",
        "weights": "Where the weights were chosen: an optimistic view of each method's best.",
        "calibration": "Above the dotted line the critic promised less than followed, below more.",
    }
    drawn = {name: figure(png, captions[name]) for name, png in pictures.items()}
    critic = html_table(*critic_table(evaluation)) + note(critic_note(evaluation))
    about, simulator = dict(evaluation.provenance), evaluation.provenance.get("simulator")
    if simulator:
        about |= {f"simulator {name}": value for name, value in about.pop("simulator").items()}
    lead = best(evaluation.held_out)
    verdict = (
        f"{title(lead.method.label, lead.weight)} succeeded most, in {lead.success.value:.2f} of "
        f"{len(lead.episodes)} held-out episodes (95%: {lead.success.low:.2f} to "
        f"{lead.success.high:.2f})"
    )
    if lead.success.value == 0:
        verdict = f"No method succeeded in any of {len(lead.episodes)} held-out episodes"
    sections = {
        "Success": html_table(*success_table(evaluation)) + note(SUCCESS_NOTE)
        + drawn.get("success", "") + drawn.get("weights", ""),
        **({"By goal": html_table(*goal_table(evaluation))} if of_goals(evaluation) else {}),
        "The critic on the chunks that were executed": critic + drawn.get("calibration", ""),
        "How this was made": facts(
            {"checkpoints": [c["source"] for c in evaluation.checkpoints],
             **evaluation.settings.describe(), "seconds": round(evaluation.seconds, 1), **about}
        ),
    }  # fmt: skip
    said = [simulator["note"]] if simulator and simulator["note"] else []
    return page(f"Evaluation in {evaluation.task}", verdict, True, sections, said)


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation without its single episodes, as JSON."""
    return {
        "task": evaluation.task,
        "settings": evaluation.settings.describe(),
        "checkpoints": list(evaluation.checkpoints),
        "rows": rows(evaluation),
        "selection": selection_rows(evaluation),
        "critic_error": critic_rows(evaluation),
        **({"by_goal": goal_rows(evaluation)} if of_goals(evaluation) else {}),
        "notes": [SUCCESS_NOTE, critic_note(evaluation)],
        "seconds": round(evaluation.seconds, 1),
        "provenance": evaluation.provenance,
    }


def _row(evaluation: Evaluation, cell: Cell, unguided: Cell | None) -> dict[str, Any]:
    wins = [e.success for e in cell.episodes]
    difference = None
    if unguided is not None and cell is not unguided:
        difference = paired_difference(wins, [e.success for e in unguided.episodes])
    chunks_played = sum(len(e.steps) for e in cell.episodes)
    return {
        "method": cell.method.label,
        "weight": cell.weight,
        "episodes": len(wins),
        **prefixed("success", cell.success),
        "by_checkpoint": list(cell.rates),
        **prefixed("minus_bc", difference),
        **prefixed("mean_return", bootstrap_mean([e.total_reward for e in cell.episodes])),
        "mean_length": sum(e.length for e in cell.episodes) / len(wins),
        "optimistic": evaluation.optimistic(cell.method),
        "milliseconds_per_chunk": 1e3 * cell.sampling_seconds / chunks_played,
        "sampling_share": cell.sampling_seconds
        / max(cell.sampling_seconds + cell.stepping_seconds, 1e-9),
    }


def _error(error: CriticError) -> dict[str, Any]:
    plain = asdict(error)
    del plain["bias"]
    return {**plain, **prefixed("bias", error.bias)}


def _episode_rows(cells: tuple[Cell, ...]) -> list[dict[str, Any]]:
    return [
        {
            "checkpoint": number,
            "method": cell.method.label,
            "weight": cell.weight,
            "split": cell.split,
            "seed": e.seed,
            "success": int(e.success),
            "return": e.total_reward,
            "length": e.length,
            "terminated": int(e.terminated),
        }
        for cell in cells
        for number, episodes in enumerate(cell.by_checkpoint)
        for e in episodes
    ]
