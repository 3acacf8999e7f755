"""The study `scaling` in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qgf_ref.studies.base import Rows, distinct, fill, select
from qgf_ref.tables import columns_of, formatted, text_table

QUANTITIES = {"success": "success", "bc_loss": "cloning loss", "critic_loss": "critic's loss"}


def report(about: Mapping[str, Any], success: Rows, costs: Rows, slopes: Rows) -> str:
    """Success by size; losses and costs by size; slopes along each ladder."""
    return "\n\n".join(
        (
            "\n".join(map(fill, _above(about))),
            _success(success),
            fill(_SUCCESS),
            _costs(costs),
            fill(_COSTS),
            _slopes(slopes),
            fill(_SLOPES),
        )
    )


def _above(about: Mapping[str, Any]) -> list[str]:
    seeds, each = len(about["seeds"]), about["episodes"]
    ws = ", ".join(f"{w:g}" for w in about["weights"])
    bcs = ", ".join(f"{w:g}" for w in about["bc_weights"])
    return [
        "Success, losses and cost against the size of the networks (depth × width of every one)",
        f"{about['task']}, {about['updates']:,} updates, {seeds} training seeds × {each} held-out "
        f"episodes, the same for all. Chosen on {about['selection_episodes']} selection episodes: "
        f"qgf's w of {ws}, of all seeds; edp's bc_weight of {bcs}, of the first seed.",
    ]


_SUCCESS = (
    "success: Wilson's 95% over episodes, for these runs. seeds: Student's t over training seeds. "
    "qgf − edp: paired on the same episodes (Newcombe)."
)
_COSTS = (
    "Losses on one batch of held-out windows, means of the training seeds: cloning, of the flow, "
    "whatever trained it; critic, whose targets are its own, so that sizes are not to be ranked by "
    "it. Updates a second of processor time, on one thread. state: networks and Adam's moments. "
    "process: the most that a training's process took, mostly the data set."
)
_SLOPES = (
    "Change for twice the parameters: least squares for each training seed, Student's t over them; "
    "*: 0 lies outside."
)


def _success(rows: Rows) -> str:
    def cell(size: str, method: str) -> Mapping[str, Any]:
        return select(rows, size=size, method=method)[0]

    def span(row: Mapping[str, Any], name: str) -> str:
        return f"{max(row[f'{name}_low'], 0):.2f}–{min(row[f'{name}_high'], 1):.2f}"

    header = ["size", "1000 par.", "bc", "qgf", "95%", "seeds", "w", "edp", "95%", "seeds", "bc_w",
              "qgf − edp", "95%"]  # fmt: skip
    body = []
    for size in distinct(rows, "size"):
        bc, qgf, edp = (cell(size, method) for method in ("bc", "qgf", "edp"))
        low, high = qgf["minus_edp_low"], qgf["minus_edp_high"]
        body.append(
            [
                size, f"{qgf['parameters'] / 1000:.0f}", f"{bc['success']:.2f}",
                f"{qgf['success']:.2f}", span(qgf, "success"), span(qgf, "seeds_success"),
                _value(qgf["chosen"]),
                f"{edp['success']:.2f}", span(edp, "success"), span(edp, "seeds_success"),
                _value(edp["chosen"]),
                f"{qgf['minus_edp']:+.2f}", f"{low:+.2f} {high:+.2f}",
            ]
        )  # fmt: skip
    return text_table(header, body, left=(0,), gap=" ")


def _costs(rows: Rows) -> str:
    columns: dict[str, Any] = {
        "size": lambda r: r["size"],
        "agent": lambda r: r["agent"],
        "cloning": lambda r: f"{r['bc_loss']:.4f}",
        "over seeds": lambda r: f"{r['bc_loss_low']:.4f}–{r['bc_loss_high']:.4f}",
        "critic": lambda r: f"{r['critic_loss']:.2f}",
        "over seeds ": lambda r: f"{r['critic_loss_low']:.1f}–{r['critic_loss_high']:.1f}",
        "Q": lambda r: f"{r['q']:.1f}",
        "updates/s": lambda r: f"{r['updates_per_second']:.0f}",
        "state MB": lambda r: f"{r['state_bytes'] / 1e6:.1f}",
        "process GB": lambda r: formatted(
            None if r["peak_process_bytes"] is None else r["peak_process_bytes"] / 1e9, ".2f"
        ),
    }
    return text_table(*columns_of(rows, columns), left=(0, 1))


def _slopes(rows: Rows) -> str:
    body = [
        [
            r["ladder"], f"{r['from']} … {r['to']}", QUANTITIES[r["quantity"]], r["of"],
            f"{r['per_doubling']:+.3g}", f"{r['per_doubling_low']:+.3g} to "
            f"{r['per_doubling_high']:+.3g}", _told(r),
        ]
        for r in rows
    ]  # fmt: skip
    header = ["along", "sizes", "change of", "of", "per doubling", "95%", ""]
    return text_table(header, body, left=(0, 1, 2, 3, 6))


def _told(row: Mapping[str, Any]) -> str:
    return "" if row["per_doubling_low"] <= 0 <= row["per_doubling_high"] else "*"


def _value(chosen: str) -> str:
    return chosen.rpartition("=")[2]
