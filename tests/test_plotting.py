"""Files of figures hold everything that was drawn."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from qgf_ref.evaluation.plots import success_bars
from qgf_ref.plotting import (
    ESTIMATOR_STYLES,
    Figure,
    dress,
    legend_beside,
    new_figure,
    own_look,
    pdf,
    png,
)

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("draws")


def drawn(title: str) -> Figure:
    figure = new_figure(3.0, 2.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], label="a line")
    dress(axes, "", "x", "y")
    legend_beside(axes)
    figure.suptitle(title)
    return figure


def test_a_command_draws_whatever_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import rcParams

    plain = png(drawn("short"))
    monkeypatch.setitem(rcParams, "lines.linewidth", 7.0)
    monkeypatch.setitem(rcParams, "text.usetex", True)
    monkeypatch.setenv("MPLBACKEND", "nosuch")
    with own_look():
        assert os.environ["MPLBACKEND"] == "agg"
        assert png(drawn("short")) == plain
    assert os.environ["MPLBACKEND"] == "nosuch"


def test_a_long_title_is_not_cut() -> None:
    from matplotlib.image import imread

    long = "humanoidmaze-medium-navigate-singletask-task1-v0: held-out chunks in bins"
    pictures = {title: imread(io.BytesIO(png(drawn(title)))) for title in ("short", long)}
    assert pictures["short"].shape[:2] == (260, 390)
    picture = pictures[long]
    assert picture.shape[1] > 600
    for edge in (picture[:, :3], picture[:, -3:], picture[:3], picture[-3:]):
        np.testing.assert_array_equal(edge, 1)
    assert pdf(drawn(long)) == pdf(drawn(long))


def test_intervals_are_seen_on_every_bar() -> None:
    """They are black, and so are some estimators' lines."""
    figure = new_figure(4.0, 3.0)
    axes = figure.add_subplot()
    names = [n for n, line in ESTIMATOR_STYLES.items() if line.color == "#000000"]
    assert names
    success_bars(axes, [{"method": name, "success": 0.5} for name in names])
    assert not {bar.get_facecolor() for bar in axes.patches} & {(0.0, 0.0, 0.0, 1.0)}
