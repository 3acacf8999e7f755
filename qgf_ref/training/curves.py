"""The loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qgf_ref.files import write_atomically
from qgf_ref.plotting import can_draw, dress, new_figure, png

_LABELS = {"policy": "flow matching loss"}
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def loss_curves(
    rows: Sequence[Mapping[str, float]], names: Sequence[str], title: str, path: Path
) -> None:
    """The losses of these names against the update, training solid, validation dashed.

    Without Matplotlib there is no figure.
    """
    if not can_draw():
        return
    figure = new_figure(3.2 * len(names), 3.2)
    updates = [row["update"] for row in rows]
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        color = _COLORS[index % len(_COLORS)]
        axes.plot(updates, [row[name] for row in rows], color=color, label="training")
        held_out = [row.get(f"validation_{name}", float("nan")) for row in rows]
        axes.plot(updates, held_out, color=color, linestyle="--", alpha=0.7, label="validation")
        dress(
            axes,
            _LABELS.get(name, f"{name.replace('_', ' ')} loss"),
            "update",
            "mean over the batch",
        )
        axes.legend(fontsize=7.5, frameon=False)
    figure.suptitle(title, fontsize=10)
    write_atomically(path, png(figure))
