"""The conventions of the official code (official.md, section 1 and 5), value by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import erf

from qgf_ref.errors import InputError
from qgf_ref.ops.activations import ACTIVATIONS, activation, activation_vjp, erf_series
from qgf_ref.ops.clip import clip, clip_vjp
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp
from qgf_ref.ops.layer_norm import layer_norm
from qgf_ref.ops.structure import batch_sum_vjp
from qgf_ref.ops.time_embedding import time_embedding, time_embedding_jvp


def test_activation_values() -> None:
    x = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    expected = {
        "gelu": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "gelu_erf": 0.5 * x * (1 + erf(x / math.sqrt(2))),
        "gelu_quick": x / (1 + np.exp(-1.702 * x)),
        "relu": np.maximum(x, 0),
        "silu": x / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
        "elu": np.where(x > 0, x, np.exp(x) - 1),
        "mish": x * np.tanh(np.log1p(np.exp(x))),
    }
    assert set(expected) == set(ACTIVATIONS)
    for name, y in expected.items():
        np.testing.assert_allclose(activation(x, name)[0], y, rtol=1e-15, atol=1e-16)


def test_activations_do_not_overflow() -> None:
    x = np.array([-1e4, -800.0, 800.0, 1e4])
    for name in ACTIVATIONS:
        y, cache = activation(x, name)
        assert np.isfinite(y).all()
        assert np.isfinite(activation_vjp(np.ones_like(x), cache)).all()


def test_unknown_names_raise_and_list_the_valid_ones() -> None:
    """The official code silently falls back to gelu (official.md, D16)."""
    with pytest.raises(
        InputError, match=r"unknown activation 'gleu'.*: gelu, elu, .*gelu_erf, gelu_quick, mish"
    ):
        activation(np.zeros(1), "gleu")
    with pytest.raises(InputError, match=r"unknown aggregation 'max'.*mean, min"):
        ensemble_reduce(np.zeros((2, 1)), "max")
    with pytest.raises(InputError, match="tie rule"):
        ensemble_reduce(np.zeros((2, 1)), "min", "last")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="variance"):
        layer_norm(np.zeros((1, 2)), np.ones(2), np.zeros(2), variance="one")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision"):
        time_embedding(np.zeros(1), precision="half")  # type: ignore[arg-type]


def test_kinks() -> None:
    """relu′(0) = 0, elu′(0) = 1; clip′(±1) = ½ unless told otherwise."""
    zero, one = np.zeros(1), np.ones(1)
    assert activation_vjp(one, activation(zero, "relu")[1]) == 0
    assert activation_vjp(one, activation(zero, "elu")[1]) == 1
    x = np.array([-2.0, -1.0, 0.3, 1.0, 2.0])
    y, cache = clip(x)
    np.testing.assert_array_equal(y, [-1, -1, 0.3, 1, 1])
    np.testing.assert_array_equal(clip_vjp(np.ones(5), cache), [0, 0.5, 1, 0.5, 0])
    for kink in (0.0, 1.0):
        slope = clip_vjp(np.ones(5), clip(x, kink=kink)[1])
        np.testing.assert_array_equal(slope, [0, kink, 1, kink, 0])


def test_ensemble_ties() -> None:
    """Tied members share the gradient equally (jax.numpy.min), or the first takes it all."""
    q = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 5.0], [1.0, 1.0, 3.0]])
    one = np.ones(3)
    split = ensemble_reduce_vjp(one, ensemble_reduce(q)[1])
    np.testing.assert_array_equal(split, [[1 / 3, 0, 0.5], [1 / 3, 0.5, 0], [1 / 3, 0.5, 0.5]])
    first = ensemble_reduce_vjp(one, ensemble_reduce(q, ties="first")[1])
    np.testing.assert_array_equal(first, [[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(ensemble_reduce(q)[0], [1, 1, 3])


def test_batch_cotangent_is_of_the_sum() -> None:
    np.testing.assert_array_equal(batch_sum_vjp(np.array([3.0, 4.0])), [1, 1])


def test_layer_norm_eps_and_variance() -> None:
    x = 1e-3 * np.array([[1.0, -1.0, 2.0, -2.0]])
    y = layer_norm(x, np.ones(4), np.zeros(4))[0]
    np.testing.assert_allclose(y, x / np.sqrt(2.5e-6 + 1e-6), rtol=1e-13)
    torch_like = layer_norm(x, np.ones(4), np.zeros(4), eps=1e-5)[0]
    assert abs(y - torch_like).max() > 0.1, "eps matters here"


def test_fast_variance_is_the_official_one_and_loses_digits_far_from_zero() -> None:
    """official.md: error 0.17 at mean/std = 1000 in float32; two_pass keeps its digits."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 256)) + 1000).astype(np.float32)
    scale, offset = np.ones(256, np.float32), np.zeros(256, np.float32)
    exact = layer_norm(x.astype(float), scale, offset, variance="two_pass")[0]
    fast = abs(layer_norm(x, scale, offset)[0] - exact).max()
    careful = abs(layer_norm(x, scale, offset, variance="two_pass")[0] - exact).max()
    assert fast > 0.02
    assert careful < 1e-3
    constant = np.linspace(900, 1100, 50, dtype=np.float32)[:, None] * np.ones(64, np.float32)
    raw = (constant * constant).mean(axis=1) - constant.mean(axis=1) ** 2
    assert raw.min() < -1e-5, "the fast formula goes well below −eps"
    finite = layer_norm(constant, np.ones(64, np.float32), np.zeros(64, np.float32))[0]
    assert np.isfinite(finite).all(), "and is cut at 0"


def test_time_embedding_layout() -> None:
    e = time_embedding(np.array([0.0, 0.1, 1.0]))[0]
    np.testing.assert_array_equal(e[0], [1] * 8 + [0] * 8)
    omega = 1e4 * np.exp(-math.log(1e4) * np.arange(8) / 8)
    np.testing.assert_allclose(e[1], np.r_[np.cos(0.1 * omega), np.sin(0.1 * omega)], atol=1e-12)
    with pytest.raises(ValueError, match="even"):
        time_embedding(np.zeros(1), dim=7)


def test_float32_embedding_differs_as_official_md_says() -> None:
    """Up to 1.2e-4 for T = 10 and 4e-4 for T = 7."""
    for T, low, high in ((10, 5e-5, 3e-4), (7, 1e-4, 8e-4)):
        t = np.arange(T) / T
        exact = time_embedding(t)[0]
        rounded = time_embedding(t, precision="float32")[0]
        assert rounded.dtype == np.float32
        assert low < abs(exact - rounded).max() < high
        exponent = np.float32(-math.log(1e4)) * np.arange(8, dtype=np.float32) / np.float32(8)
        freq = np.array([math.exp(float(x)) for x in exponent], dtype=np.float32)
        angle = (t.astype(np.float32) * np.float32(1e4))[:, None] * freq
        expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        np.testing.assert_array_equal(rounded, expected)


def test_float32_embedding_has_the_exact_ones_derivative() -> None:
    t, t_dot = np.array([0.1, 0.5]), np.array([1.0, -2.0])
    exact = time_embedding_jvp(t_dot, time_embedding(t)[1])
    rounded = time_embedding_jvp(t_dot, time_embedding(t, precision="float32")[1])
    # the angles differ by up to 5e-4 rad, so do the slopes, relative to ω = 1e4
    assert abs(exact - rounded).max() < 10
    assert abs(exact).max() > 5e3


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_erf_without_scipy(dtype: str) -> None:
    """Measured 1.9e-15; the complex step's slope 2.1e-14, at ±6, where two terms of it cancel."""
    x = np.linspace(-8, 8, 4001).astype(dtype)
    ours = erf_series(x)
    assert ours.dtype == x.dtype
    np.testing.assert_allclose(ours, erf(x), rtol=0, atol=2e-7 if dtype == "float32" else 4e-15)
    if dtype == "complex128":
        h = 1e-30
        slope = erf_series(x + 1j * h).imag / h
        truth = 2 / np.sqrt(np.pi) * np.exp(-(x.real**2))
        np.testing.assert_allclose(slope, truth, rtol=0, atol=4e-14)
