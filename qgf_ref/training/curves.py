"""The loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qgf_ref.files import write_atomically
from qgf_ref.plotting import dress, new_figure, png

_PANELS = {
    "policy": ("flow matching loss", "#0072B2"),
    "critic": ("critic loss", "#D55E00"),
    "value": ("value loss", "#009E73"),
}


def loss_curves(rows: Sequence[Mapping[str, float]], title: str, path: Path) -> None:
    """The three losses against the update, training solid, validation dashed."""
    figure = new_figure(9.6, 3.2)
    updates = [row["update"] for row in rows]
    for index, (name, (label, color)) in enumerate(_PANELS.items()):
        axes = figure.add_subplot(1, len(_PANELS), index + 1)
        axes.plot(updates, [row[name] for row in rows], color=color, label="training")
        held_out = [row.get(f"validation_{name}", float("nan")) for row in rows]
        axes.plot(updates, held_out, color=color, linestyle="--", alpha=0.7, label="validation")
        dress(axes, label, "update", "mean over the batch")
        axes.legend(fontsize=7.5, frameon=False)
    figure.suptitle(title, fontsize=10)
    write_atomically(path, png(figure))
