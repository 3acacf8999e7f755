"""The 2×2 ablation: effects of planted cells, scenes whose answer is known, the line's episodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import student_mean
from qgf_ref.studies.ablation import study as ablation
from qgf_ref.studies.ablation.closed_form import BoundedScene
from qgf_ref.studies.ablation.factors import (
    BOTH,
    FOUR,
    JACOBIAN,
    MASK,
    NEITHER,
    certain,
    effects,
    factor_rows,
)
from qgf_ref.studies.ablation.study import study
from qgf_ref.studies.ablation.trained_networks import relative_variance
from qgf_ref.studies.shared import trained
from tests.studies.lines import drawn, line_settings


def test_effects_of_an_additive_table() -> None:
    y = {NEITHER: 1.0, MASK: 1.5, JACOBIAN: 3.0, BOTH: 3.5}
    found = effects({name: np.array([v]) for name, v in y.items()})
    assert {name: v.item() for name, v in found.items()} == {
        "mask": 0.5,
        "Jacobian": 2.0,
        "interaction": 0.0,
    }
    y[BOTH] += 1.0  # and with an interaction of 1, half of which goes to each main effect
    found = effects({name: np.array([v]) for name, v in y.items()})
    assert {name: v.item() for name, v in found.items()} == {
        "mask": 1.0,
        "Jacobian": 2.5,
        "interaction": 1.0,
    }


def test_intervals_are_of_paired_differences() -> None:
    between = np.linspace(-10, 10, 8)  # differs between clusters, not between the four
    y = {name: [between + 0.1 * i] for i, name in enumerate(FOUR)}
    rows = {r["term"]: r for r in factor_rows(y, lambda v: student_mean(v[0]), {})}
    assert rows[NEITHER]["high"] - rows[NEITHER]["low"] > 5
    assert rows["mask"]["value"] == pytest.approx(0.1)
    assert rows["mask"]["high"] - rows["mask"]["low"] < 1e-12


def test_equal_values_everywhere_are_not_evidence() -> None:
    assert not certain({"value": 0.0, "low": 0.0, "high": 0.0})
    assert not certain({"value": 1.0, "low": 1.0, "high": 1.0})
    assert certain({"value": 1.0, "low": 0.5, "high": 1.5})


def test_inside_the_box_the_mask_does_nothing() -> None:
    scene = BoundedScene(2, 0.2, 0)
    assert scene.clipped(200) < 0.01
    small = scene.bias_and_sd(60, 2)
    # the mask's only effect is through the clipped share: none, or one coordinate in hundreds
    assert small[MASK] == pytest.approx(small[NEITHER], abs=0.02)
    assert small[BOTH] == pytest.approx(small[JACOBIAN], abs=0.02)
    assert abs(small[JACOBIAN][0] - small[NEITHER][0]) > 0.02


def test_the_share_of_clipped_coordinates_grows_with_reach() -> None:
    shares = [BoundedScene(3, reach, 1).clipped(200) for reach in (0.5, 1.0, 2.0)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.3


def test_distances_are_ordered() -> None:
    found = BoundedScene(2, 0.8, 2).distances(400, directions=20)
    assert found["exact"][0] < min(found[name][0] for name in FOUR)
    assert all(weight >= 0 for _, weight in found.values())
    exact = BoundedScene(2, 1.5, 2).exact_actions(300, 0)
    assert np.abs(exact).max() == 1.0


def test_relative_variance_of_known_draws() -> None:
    G = np.array([[[3.0, 4.0]]])  # (T, B, D), ‖G‖² = 25
    xi = np.array([0.5, 0.0])
    draws = np.stack([G + xi, G - xi])
    assert relative_variance(draws).item() == pytest.approx(0.5 / 25)
    assert relative_variance(np.stack([G, G])).item() == 0


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five observations of the line; two tiny scenes."""
    obs = np.random.default_rng(3).standard_normal((5, 5)).astype(np.float32)
    monkeypatch.setattr(trained, "observations", lambda settings, index, rows: obs)
    size = replace(ablation.QUICK_SIZE, dimensions=(2,), scenes=2, rows=8, draws=2, samples=40)
    monkeypatch.setattr(ablation, "QUICK_SIZE", size)


def test_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small(monkeypatch)
    found = study(line_settings(records=tmp_path))
    success = {(r["split"], r["weight"], r["term"]): r["value"] for r in found.tables[""]}
    held = {name: success["held-out", "chosen", name] for name in FOUR}
    assert success["held-out", "chosen", "mask"] == pytest.approx(
        (held[MASK] - held[NEITHER] + held[BOTH] - held[JACOBIAN]) / 2
    )
    assert success["held-out", "chosen", f"{MASK} − {NEITHER}"] == pytest.approx(
        held[MASK] - held[NEITHER]
    )
    over = [r for r in found.tables["gradients"] if r["time"] == "all"]
    assert {r["measure"] for r in over} == {"clipped", "change", "cosine", "norm ratio", "variance"}
    assert 0 < next(r["value"] for r in over if r["measure"] == "clipped") < 1
    assert "What follows:" in found.text
    assert max(map(len, found.text.splitlines())) <= 100
    assert drawn("ablation", found) == {"closed_form", "gradients", "success"}


def test_it_compares_the_four_and_no_others() -> None:
    with pytest.raises(InputError, match="takes no --estimators"):
        study(replace(line_settings(), estimators=("qgf",)))
