"""Fourier features of a step: their products in the frequencies by complex step."""

from __future__ import annotations

import numpy as np

from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.ops.fourier import (
    fourier_features,
    fourier_features_jvp_params,
    fourier_features_vjp_params,
)

K = np.array([1.0, 4, 4, 10])
W = 0.2 * np.random.default_rng(0).standard_normal((5, 1))


def test_products_in_the_frequencies() -> None:
    def jvp(w: np.ndarray, w_dot: np.ndarray) -> np.ndarray:
        return fourier_features_jvp_params(w_dot, fourier_features(K, w)[1])

    def vjp(w: np.ndarray, f_bar: np.ndarray) -> np.ndarray:
        return fourier_features_vjp_params(f_bar, fourier_features(K, w)[1])

    def features(w: np.ndarray) -> np.ndarray:
        return fourier_features(K, w)[0]

    check_jvp(features, jvp, W, tolerance=1e-14)
    check_vjp(features, vjp, W, tolerance=1e-14)
    check_adjoint(features, jvp, vjp, W)


def test_cosines_come_first_and_the_step_is_not_divided() -> None:
    features, _ = fourier_features(K, W)
    for b, k in enumerate(K):
        for i, w in enumerate(W[:, 0]):
            angle = 2 * np.pi * k * w
            np.testing.assert_allclose(features[b, [i, 5 + i]], [np.cos(angle), np.sin(angle)])


def test_float32_stays_float32() -> None:
    features, _ = fourier_features(K.astype("float32"), W.astype("float32"))
    assert features.dtype == np.float32
