"""The derivative of each vjp against complex step through the vjp and central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import DerivativeMismatch, check_adjoint, check_jvp
from qgf_ref.ops import activations
from qgf_ref.ops.activations import (
    ACTIVATIONS,
    activation,
    activation_vjp,
    activation_vjp_jvp,
)
from qgf_ref.ops.dense import Composed, DenseParts, DenseRule
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.ops.layer_norm import (
    LayerNormCache,
    layer_norm,
    layer_norm_jvp,
    layer_norm_vjp,
    layer_norm_vjp_jvp,
)

Case = tuple[Callable[[Array], tuple[Array, Any]], Callable[..., Array], Callable[..., Array]]
SIZES = {
    "usual": (2, 5, 7),
    "one row": (2, 1, 7),
    "one member": (1, 5, 7),
    "one feature": (2, 5, 1),
}


def rule(name: str, shape: tuple[int, int, int], seed: int) -> tuple[Case, Array, Array]:
    """(forward, vjp, vjp's jvp), x and y_bar, both (E, B, F)."""
    rng = np.random.default_rng((seed, 3))
    E, _, F = shape
    x, y_bar = 2 * rng.standard_normal(shape), rng.standard_normal(shape)
    scale, offset = rng.standard_normal((E, F)), rng.standard_normal((E, F))
    kind, option = name.split(" ")
    if kind == "activation":
        return (lambda v: activation(v, option), activation_vjp, activation_vjp_jvp), x, y_bar
    return (
        (
            lambda v: layer_norm(v, scale, offset, variance=option),  # type: ignore[arg-type]
            layer_norm_vjp,
            layer_norm_vjp_jvp,
        ),
        x + 1,
        y_bar,
    )


RULES = [f"activation {n}" for n in ACTIVATIONS] + ["layer_norm fast", "layer_norm two_pass"]


def both_arguments(case: Case) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """x_bar of (x, y_bar), and its jvp."""
    forward, vjp, vjp_jvp = case
    return (
        lambda z: vjp(z[1], forward(z[0])[1]),
        lambda z, z_dot: vjp_jvp(z_dot[0], z[1], z_dot[1], forward(z[0])[1]),
    )


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_rule(name: str, size: str, seed: int) -> None:
    case, x, y_bar = rule(name, SIZES[size], seed)
    f, jvp = both_arguments(case)
    # measured over these cases: complex step ≤ 5e-15, central differences ≤ 4e-10, adjoint 2e-16
    check_jvp(f, jvp, (x, y_bar), tolerance=2e-14)
    check_jvp(f, jvp, (x, y_bar), oracle="central_difference", tolerance=1e-8)
    # with y_bar held it is a Hessian, Σ y_bar ∂²y/∂x²: symmetric, its own adjoint

    def held(v: Array, v_dot: Array) -> Any:
        return jvp((v, y_bar), (v_dot, np.zeros_like(y_bar)))

    check_adjoint(lambda v: f((v, y_bar)), held, held, x, tolerance=1e-15)


@pytest.mark.parametrize("name", RULES)
def test_along_the_cotangent_alone_it_is_the_vjp(name: str) -> None:
    (forward, vjp, vjp_jvp), x, y_bar = rule(name, (2, 4, 5), 0)
    cache = forward(x)[1]
    along = vjp_jvp(np.zeros_like(x), y_bar, x, cache)
    np.testing.assert_allclose(along, vjp(x, cache), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rows", [0, 3])
def test_dtype_and_strides(name: str, rows: int) -> None:
    (forward, _, vjp_jvp), x, y_bar = rule(name, (2, 3, 5), 0)
    x, y_bar = x[:, :rows], y_bar[:, :rows]
    turned = [np.asfortranarray(a[..., ::-1])[..., ::-1] for a in (x, y_bar, y_bar * x)]
    product = vjp_jvp(x, y_bar, y_bar * x, forward(x)[1])
    again = vjp_jvp(*turned, forward(turned[0])[1])
    np.testing.assert_allclose(again, product, rtol=1e-13, atol=1e-14)
    assert product.shape == x.shape
    if name.startswith("activation"):  # the others take their parameters' dtype
        single = [a.astype(np.float32) for a in (x, y_bar, y_bar * x)]
        rounded = vjp_jvp(*single, forward(single[0])[1])
        assert rounded.dtype == np.float32
        # measured ≤ 5e-6 of the largest (gelu, whose 1 − tanh² cancels), 4e-7 else
        error = abs(rounded - product).max(initial=0)
        assert error <= 2e-5 * abs(product).max(initial=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_out_the_curvature_vanishes(name: str, dtype: Any) -> None:
    x = np.array([-1e10, -1e4, -200, 200, 1e4, 1e10], dtype)
    one, zero = np.ones_like(x), np.zeros_like(x)
    curvature = activation_vjp_jvp(one, one, zero, activation(x, name)[1])
    np.testing.assert_allclose(curvature, 0, atol=1e-30)


def test_kinks() -> None:
    """relu″ = 0 everywhere; elu″(0) = 1, of the branch whose slope is taken there."""
    one, zero = np.ones(1), np.zeros(1)
    assert activation_vjp_jvp(one, one, zero, activation(zero, "relu")[1]) == 0
    assert activation_vjp_jvp(one, one, zero, activation(zero, "elu")[1]) == 1


def test_where_the_fast_variance_is_clamped_the_vjp_is_differentiated_as_it_stands() -> None:
    """The vjp takes the variance to be exact; its derivative must be that of the same function."""
    rng = np.random.default_rng(0)
    near = (rng.standard_normal((200, 5)) * 1e-4 + 1000).astype(np.float32)
    raw = (near * near).mean(axis=1) - near.mean(axis=1) ** 2
    x = near[raw < 0].astype(np.float32)
    assert len(x) > 20
    scale, eps = np.ones(5, np.float32), 1e-6
    _, cache = layer_norm(x, scale, 0 * scale, eps)
    np.testing.assert_allclose(cache.rstd, 1 / np.sqrt(eps), rtol=1e-6, err_msg="clamped")
    x_dot, y_bar = (rng.standard_normal(x.shape) for _ in range(2))
    h = 1e-6

    def moved(step: float) -> Array:
        # x̂ and rstd along x_dot, by the first-order rules
        x_hat = cache.x_hat + step * layer_norm_jvp(x_dot, cache)
        mean = (cache.x_hat * x_dot).mean(axis=1, keepdims=True)
        rstd = cache.rstd * (1 - step * cache.rstd * mean)
        return layer_norm_vjp(y_bar, LayerNormCache(x_hat, rstd, scale))

    expected = (moved(h) - moved(-h)) / (2 * h)
    found = layer_norm_vjp_jvp(x_dot, y_bar, np.zeros_like(y_bar), cache)
    # central differences: measured 4e-8
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("name", ["silu", None])
@pytest.mark.parametrize("members", [None, 1, 3])
def test_block(norm: bool, name: str | None, members: int | None) -> None:
    """Both products of the block, and the first's absence where it is not wanted."""
    rng = np.random.default_rng(5)
    lead = () if members is None else (members,)
    vectors = [rng.standard_normal((*lead, 6)) for _ in range(3 if norm else 1)]
    parts = DenseParts(rng.standard_normal((*lead, 4, 6)), *vectors)
    blocks, block_rule = Composed(reference_kernels), DenseRule(name)
    x, y_bar = rng.standard_normal((5, 4)), rng.standard_normal((*lead, 5, 6))

    def cache(v: Array) -> Any:
        return blocks.dense(v, parts, block_rule)[1]

    def product(z: Any, z_dot: Any) -> Array:
        y_dot, tangents = blocks.dense_tangents(z_dot[0], cache(z[0]))
        np.testing.assert_array_equal(y_dot, blocks.dense_jvp(z_dot[0], cache(z[0])))
        x_bar, x_bar_dot = blocks.dense_vjp_jvp(z[1], z_dot[1], cache(z[0]), tangents)
        np.testing.assert_array_equal(x_bar, blocks.dense_vjp(z[1], cache(z[0])))
        none, same = blocks.dense_vjp_jvp(z[1], z_dot[1], cache(z[0]), tangents, False)
        assert none is None
        np.testing.assert_array_equal(same, x_bar_dot)
        return x_bar_dot

    # measured ≤ 2e-15
    check_jvp(lambda z: blocks.dense_vjp(z[1], cache(z[0])), product, (x, y_bar), tolerance=2e-14)


def without_curvature(x_dot: Array, y_bar: Array, y_bar_dot: Array, cache: Any) -> Array:
    return activation_vjp(y_bar_dot, cache)


def norm_without(term: str) -> Callable[..., Array]:
    """`layer_norm_vjp_jvp` with one of its terms left out."""

    def wrong(x_dot: Array, y_bar: Array, y_bar_dot: Array, cache: LayerNormCache) -> Array:
        x_hat, rstd, u = cache.x_hat, cache.rstd, cache.scale[..., None, :] * y_bar
        x_hat_dot = layer_norm_jvp(x_dot, cache._replace(scale=np.ones_like(cache.scale)))
        terms = {
            "x̂_dot": -rstd * x_hat_dot * (x_hat * u).mean(axis=-1, keepdims=True),
            "x̂": -rstd * x_hat * (x_hat_dot * u).mean(axis=-1, keepdims=True),
            "rstd_dot": -rstd
            * (x_hat * x_dot).mean(axis=-1, keepdims=True)
            * layer_norm_vjp(y_bar, cache),
            "y_bar_dot": layer_norm_vjp(y_bar_dot, cache),
        }
        return np.asarray(sum(value for key, value in terms.items() if key != term))

    return wrong


@pytest.mark.parametrize("term", ["x̂_dot", "x̂", "rstd_dot", "y_bar_dot", None])
def test_a_dropped_term_of_layer_norm_is_noticed(term: str | None) -> None:
    (forward, vjp, _), x, y_bar = rule("layer_norm fast", SIZES["usual"], 0)
    f, jvp = both_arguments((forward, vjp, norm_without(term or "")))
    if term is None:
        check_jvp(f, jvp, (x, y_bar), tolerance=2e-14)
        return
    with pytest.raises(DerivativeMismatch):
        check_jvp(f, jvp, (x, y_bar))


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"relu"}))
def test_a_wrong_curvature_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (forward, vjp, right), x, y_bar = rule(f"activation {name}", SIZES["usual"], 0)
    f, jvp = both_arguments((forward, vjp, without_curvature))
    with pytest.raises(DerivativeMismatch):
        check_jvp(f, jvp, (x, y_bar))
    known = activations._RULES[name]

    def scaled(v: Array, inner: Array) -> Array:
        return 1.001 * known.curvature(v, inner)

    monkeypatch.setitem(activations._RULES, name, known._replace(curvature=scaled))
    f, jvp = both_arguments((forward, vjp, right))
    with pytest.raises(DerivativeMismatch):
        check_jvp(f, jvp, (x, y_bar))
