"""The named scenes: what method.md and the paper say of them."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.studies.shared.scenes import FORMULAS, TRIMODAL, critics, exact_law, trimodal


def test_critics_are_their_formulas() -> None:
    a = np.array([[-3.0], [-1.0], [0.4], [1.0], [2.0]])
    scene = critics()
    assert scene.keys() == FORMULAS.keys()
    np.testing.assert_allclose(scene["distance"].value(a), -abs(a[:, 0] - 1))
    np.testing.assert_allclose(scene["quadratic"].value(a), -((a[:, 0] - 1) ** 2))
    bump = 2 * np.exp(-0.5 * ((a[:, 0] + 1) / 0.3) ** 2)
    np.testing.assert_allclose(scene["bump"].value(a), -abs(a[:, 0] - 1) + bump)


def test_separation_scales_the_means_and_the_optimum() -> None:
    wide = trimodal(1.5)
    np.testing.assert_allclose(wide.means, 1.5 * TRIMODAL.means)
    np.testing.assert_array_equal(wide.covariances, TRIMODAL.covariances)
    assert critics(1.5)["distance"].value(np.array([[1.5]]))[0] == 0
    with pytest.raises(InputError, match="separation"):
        trimodal(0.0)


@pytest.mark.parametrize("weight", [0.0, 0.5, 8.0])
def test_exact_law_is_the_tilted_mixture(weight: float) -> None:
    critic = critics()["quadratic"]
    assert isinstance(critic, QuadraticCritic)
    mean, covariance = TRIMODAL.tilted(critic, weight).moments()
    law = exact_law(TRIMODAL, critic, weight)
    assert abs(law.expectation(lambda a: a) - mean[0]) < 1e-12
    assert abs(law.expectation(lambda a: (a - mean[0]) ** 2) - covariance[0, 0]) < 1e-12
