"""Compiled dense blocks against the composition of the primitives in higher precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.backends.numba.kernels.fused import CompiledCache, numba_kernels
from qgf_ref.checks import check_vjp
from qgf_ref.errors import InputError
from qgf_ref.nets.mlp import LayerParams, MLPOptions, MLPParams, mlp, mlp_jvp, mlp_vjp_params
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.dense import Composed, DenseCache, DenseParts, DenseRule, fused
from qgf_ref.ops.kernels import reference_kernels

REFERENCE = Composed(reference_kernels)
LIMIT = 40
"""In eps of a result's largest element. Measured: at most 19 (bias_bar), else 12."""
SECOND_ORDER_LIMIT = 150
"""The same of second derivatives, in NumPy, whose terms cancel. Measured at most 40."""


def case(
    sizes: tuple[int | None, int, int, int], norm: bool, dtype: str, shared: bool = True
) -> tuple[Array, DenseParts, Array, Array]:
    """x, parameters, x_dot, y_bar."""
    E, B, K, F = sizes
    rng = np.random.default_rng(B + K + F)
    lead = () if E is None else (E,)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    kernel = draw(*lead, K, F) / np.dtype(dtype).type(K) ** 0.5
    parts = DenseParts(
        kernel.astype(dtype), draw(*lead, F), *((draw(*lead, F), draw(*lead, F)) if norm else ())
    )
    x_lead = () if shared else lead
    return draw(*x_lead, B, K), parts, draw(*x_lead, B, K), draw(*lead, B, F)


def finer(a: Any) -> Any:
    if a is None:
        return None
    return a.astype(np.float64 if a.dtype == np.float32 else np.longdouble)


def require_close(ours: Array, theirs: Array, dtype: str, what: str, limit: float = LIMIT) -> None:
    assert ours.dtype == dtype and ours.shape == theirs.shape, what
    size = max(float(np.abs(theirs).max()), 1e-3)
    error = float(np.abs(ours - theirs).max()) / size / np.finfo(dtype).eps
    assert error < limit, f"{what}: {error:.1f} eps"


def compare(
    x: Array, parts: DenseParts, x_dot: Array, y_bar: Array, rule: DenseRule, dtype: str
) -> None:
    y, cache = numba_kernels.dense(x, parts, rule)
    assert isinstance(cache, CompiledCache)
    # SciPy's erf knows no long double: of gelu_erf the float64 reference must do for float64
    up = (lambda a: a) if (rule.activation, dtype) == ("gelu_erf", "float64") else finer
    Y, exact = REFERENCE.dense(up(x), DenseParts(*map(up, parts)), rule)
    require_close(y, Y, dtype, "y")
    product = numba_kernels.dense_jvp(x_dot, cache)
    require_close(product, REFERENCE.dense_jvp(up(x_dot), exact), dtype, "y_dot")
    x_bar_alone = numba_kernels.dense_vjp(y_bar, cache)
    require_close(x_bar_alone, REFERENCE.dense_vjp(up(y_bar), exact), dtype, "x_bar")
    x_bar, bars = numba_kernels.dense_vjp_params(y_bar, cache)
    assert x_bar is not None
    np.testing.assert_array_equal(x_bar, x_bar_alone)
    _, exact_bars = REFERENCE.dense_vjp_params(up(y_bar), exact)
    for name, a, b in zip(DenseParts._fields, bars, exact_bars, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            require_close(a, b, dtype, f"{name}_bar")
    _, inside = numba_kernels.dense_tangents(x_dot, cache)
    _, exact_inside = REFERENCE.dense_tangents(up(x_dot), exact)
    both = numba_kernels.dense_vjp_jvp(y_bar, y_bar, cache, inside)
    exact_both = REFERENCE.dense_vjp_jvp(up(y_bar), up(y_bar), exact, exact_inside)
    for name, a, b in zip(("x_bar again", "x_bar_dot"), both, exact_both, strict=True):
        assert a is not None and b is not None
        require_close(a, b, dtype, name, SECOND_ORDER_LIMIT)
    without, same = numba_kernels.dense_vjp_params(y_bar, cache, input_bar=False)
    assert without is None
    for a, b in zip(bars, same, strict=True):
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variance", ["fast", "two_pass"])
@pytest.mark.parametrize("norm", ["first", "after", "none"])
@pytest.mark.parametrize("name", [*ACTIVATIONS, None])
def test_every_rule(name: str | None, norm: str, variance: Any, dtype: str) -> None:
    x, parts, x_dot, y_bar = case((None, 13, 21, 37), norm != "none", dtype)
    rule = DenseRule(name, 1e-3, variance, norm_after_activation=norm == "after")
    compare(x, parts, x_dot, y_bar, rule, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "sizes",
    # one row, one column, panels and tiles that are full and that are not, a page-sized row,
    # several blocks, and more rows than one chunk
    [(None, 1, 1, 5), (None, 3, 70, 1), (None, 64, 64, 64), (None, 9, 1024, 33),
     (None, 300, 31, 513), (None, 1030, 24, 17), (2, 19, 22, 35), (3, 1, 4, 6)],
    ids=str,
)  # fmt: skip
def test_every_shape(sizes: tuple[int | None, int, int, int], dtype: str) -> None:
    x, parts, x_dot, y_bar = case(sizes, True, dtype)
    for after in (False, True):
        compare(x, parts, x_dot, y_bar, DenseRule("gelu", 1e-3, "fast", after), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ensemble_whose_members_have_inputs_of_their_own(dtype: str) -> None:
    x, parts, x_dot, y_bar = case((3, 11, 20, 35), True, dtype, shared=False)
    for after in (False, True):
        compare(x, parts, x_dot, y_bar, DenseRule("silu", 1e-3, "fast", after), dtype)


def test_a_row_does_not_depend_on_the_others() -> None:
    x, parts, _, y_bar = case((None, 50, 40, 70), True, "float32")
    rule = DenseRule("gelu")
    y, cache = numba_kernels.dense(x, parts, rule)
    x_bar = numba_kernels.dense_vjp(y_bar, cache)
    for i in (0, 17, 49):
        row, row_cache = numba_kernels.dense(x[i : i + 1], parts, rule)
        np.testing.assert_array_equal(row[0], y[i])
        back = numba_kernels.dense_vjp(y_bar[i : i + 1], row_cache)
        np.testing.assert_array_equal(back[0], x_bar[i])


def test_what_it_converts() -> None:
    """Other strides and a narrower dtype: the same numbers as of contiguous arrays of one dtype."""
    x, parts, _, y_bar = case((None, 6, 8, 9), True, "float32")
    rule = DenseRule("mish")
    expected, cache = numba_kernels.dense(x.astype(float), DenseParts(*map(finer, parts)), rule)
    turned = parts._replace(kernel=np.asfortranarray(finer(parts.kernel)))
    found, _ = numba_kernels.dense(x[:, ::-1][:, ::-1], turned, rule)
    np.testing.assert_array_equal(found, expected)
    back = numba_kernels.dense_vjp(np.asfortranarray(y_bar), cache)
    np.testing.assert_array_equal(back, numba_kernels.dense_vjp(y_bar.astype(float), cache))


def test_what_it_leaves_to_the_primitives() -> None:
    x, parts, _, _ = case((None, 6, 8, 9), True, "float64")
    rule = DenseRule("gelu")
    for other in (x + 1e-30j, x[:0]):
        y, cache = numba_kernels.dense(other, parts, rule)
        assert isinstance(cache, DenseCache)
        expected, _ = REFERENCE.dense(other, parts, rule)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(numba_kernels.dense_jvp(other, cache).shape, y.shape)
        y_dot, tangents = numba_kernels.dense_tangents(other, cache)
        _, x_bar_dot = numba_kernels.dense_vjp_jvp(y_dot, y_dot, cache, tangents)
        assert x_bar_dot.shape == other.shape
    y, cache = numba_kernels.dense(x[None], parts, rule)
    assert isinstance(cache, DenseCache) and y.shape == (1, 6, 9)


def test_complex_products_of_a_real_cache() -> None:
    x, parts, x_dot, y_bar = case((2, 6, 8, 9), True, "float64")
    _, cache = numba_kernels.dense(x, parts, DenseRule("gelu"))
    product = numba_kernels.dense_jvp(x_dot + 2j * x, cache)
    np.testing.assert_array_equal(product.imag, 2 * numba_kernels.dense_jvp(x, cache))
    moved, tangents = numba_kernels.dense_tangents(x_dot + 2j * x, cache)
    np.testing.assert_allclose(moved, product, rtol=1e-12, atol=1e-13)
    _, bent = numba_kernels.dense_vjp_jvp(y_bar, 0 * y_bar, cache, tangents)
    _, along = numba_kernels.dense_tangents(x, cache)
    _, alone = numba_kernels.dense_vjp_jvp(y_bar, 0 * y_bar, cache, along)
    np.testing.assert_allclose(bent.imag, 2 * alone, rtol=1e-12, atol=1e-12)
    back = numba_kernels.dense_vjp(y_bar - 1j * y_bar, cache)
    np.testing.assert_array_equal(back.imag, -numba_kernels.dense_vjp(y_bar, cache))
    x_bar, bars = numba_kernels.dense_vjp_params(y_bar + 1j * y_bar, cache)
    assert x_bar is not None
    np.testing.assert_array_equal(x_bar.real, x_bar.imag)
    np.testing.assert_array_equal(bars.kernel.real, bars.kernel.imag)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_whole_network_on_each_backend(backend: str) -> None:
    """Gradients against finite differences, and jvp against complex step, on either."""
    kernels = backend_named(backend).kernels()
    rng = np.random.default_rng(3)

    def layer(i: int, f: int, norm: bool) -> LayerParams:
        extra = [rng.standard_normal((2, f)) for _ in range(2)] if norm else []
        return LayerParams(rng.standard_normal((2, i, f)), rng.standard_normal((2, f)), *extra)

    params = MLPParams((layer(5, 7, True), layer(7, 6, True), layer(6, 3, False)))
    x, y_bar = rng.standard_normal((4, 5)), rng.standard_normal((2, 4, 3))
    options = MLPOptions("silu")

    def value(arrays: tuple[Array, ...]) -> Array:
        return mlp(params.replace(arrays), x, options, kernels)[0]

    def pulled(arrays: tuple[Array, ...], u: Array) -> tuple[Array, ...]:
        _, cache = mlp(params.replace(arrays), x, options, kernels)
        return mlp_vjp_params(u, cache, kernels)[1].arrays()

    check_vjp(value, pulled, params.arrays(), max_full=400)
    x_dot = rng.standard_normal(x.shape)
    _, cache = mlp(params, x, options, kernels)
    step, _ = mlp(params, x + 1e-30j * x_dot, options, kernels)
    found = mlp_jvp(x_dot, cache, kernels)
    np.testing.assert_allclose(found, step.imag / 1e-30, rtol=1e-12, atol=1e-12)
    x_bar, _ = mlp_vjp_params(y_bar, cache, kernels)
    assert x_bar is not None
    np.testing.assert_allclose((x_bar * x_dot).sum(), (y_bar * found).sum(), rtol=1e-12)
    assert mlp_vjp_params(y_bar, cache, kernels, input_bar=False)[0] is None


def test_names() -> None:
    assert backend_named("numpy").kernels() is reference_kernels
    assert backend_named("numba").kernels() is numba_kernels
    assert fused(numba_kernels) is numba_kernels
    with pytest.raises(InputError, match="numpy, numba"):
        backend_named("numby")
    with pytest.raises(InputError, match="unknown activation"):
        x, parts, _, _ = case((None, 2, 2, 2), False, "float64")
        numba_kernels.dense(x, parts, DenseRule("gulu"))
