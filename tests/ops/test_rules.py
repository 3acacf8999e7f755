"""Every primitive: jvp and vjp against complex step and central differences, and each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.ops.activations import ACTIVATIONS, activation, activation_jvp, activation_vjp
from qgf_ref.ops.clip import clip, clip_jvp, clip_vjp
from qgf_ref.ops.ensemble import (
    AGGREGATIONS,
    ensemble_reduce,
    ensemble_reduce_jvp,
    ensemble_reduce_vjp,
)
from qgf_ref.ops.layer_norm import (
    layer_norm,
    layer_norm_jvp,
    layer_norm_vjp,
    layer_norm_vjp_params,
)
from qgf_ref.ops.linear import linear, linear_jvp, linear_vjp, linear_vjp_params
from qgf_ref.ops.time_embedding import time_embedding, time_embedding_jvp, time_embedding_vjp

Case = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Array]


def cases(seed: int, rows: int, members: int, features: int) -> dict[str, Case]:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal
    E, B, F = members, rows, features
    kernel, bias = normal((7, F)), normal(F)
    e_kernel, e_bias = normal((E, 7, F)), normal((E, F))
    scale, offset = normal((E, F)), normal((E, F))
    table: dict[str, Case] = {
        "linear": (lambda x: linear(x, kernel, bias), linear_jvp, linear_vjp, normal((B, 7))),
        "linear, shared input": (
            lambda x: linear(x, e_kernel, e_bias),
            linear_jvp,
            linear_vjp,
            normal((B, 7)),
        ),
        "linear, ensemble": (
            lambda x: linear(x, e_kernel, e_bias),
            linear_jvp,
            linear_vjp,
            normal((E, B, 7)),
        ),
        "layer_norm fast": (
            lambda x: layer_norm(x, scale, offset),
            layer_norm_jvp,
            layer_norm_vjp,
            normal((E, B, F)),
        ),
        "layer_norm two_pass": (
            lambda x: layer_norm(x, scale, offset, variance="two_pass"),
            layer_norm_jvp,
            layer_norm_vjp,
            normal((E, B, F)) * 3 + 1,
        ),
        "clip": (clip, clip_jvp, clip_vjp, 1.5 * normal((B, F))),
        "time_embedding": (
            time_embedding,
            time_embedding_jvp,
            time_embedding_vjp,
            rng.uniform(size=B) * 1e-3,
        ),
    }
    for name in ACTIVATIONS:
        table[f"activation {name}"] = (
            lambda x, name=name: activation(x, name),
            activation_jvp,
            activation_vjp,
            2 * normal((E, B, F)),
        )
    for name in AGGREGATIONS:
        table[f"ensemble {name}"] = (
            lambda q, name=name: ensemble_reduce(q, name),
            ensemble_reduce_jvp,
            ensemble_reduce_vjp,
            normal((E, B)),
        )
    return table


SIZES = {
    "usual": (5, 3, 6),
    "one row": (1, 2, 6),
    "one member": (4, 1, 5),
    "one feature": (3, 2, 1),
}


@pytest.mark.parametrize("name", cases(0, 2, 2, 2))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_rule(name: str, size: str, seed: int) -> None:
    forward, jvp, vjp, x = cases(seed, *SIZES[size])[name]

    def f(v: Array) -> Any:
        return forward(v)[0]

    def on_x(product: Callable[..., Any]) -> Callable[..., Any]:
        return lambda v, u: product(u, forward(v)[1])

    # measured over these cases: complex step ≤ 4e-15, adjoint ≤ 2e-16
    check_jvp(f, on_x(jvp), x, tolerance=2e-14)
    check_vjp(f, on_x(vjp), x, tolerance=2e-14)
    check_vjp(f, on_x(vjp), x, tolerance=2e-14, max_full=0)
    check_adjoint(f, on_x(jvp), on_x(vjp), x, tolerance=1e-15)
    if name != "time_embedding":  # its angular frequency of 1e4 makes h = 1e-6 too long a step
        check_jvp(f, on_x(jvp), x, oracle="central_difference", tolerance=1e-7)


@pytest.mark.parametrize("seed", [0, 1])
def test_parameter_gradients(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 4, 3))
    params = (rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 5)))
    check_vjp(
        lambda p: linear(x, *p)[0],
        lambda p, u: linear_vjp_params(u, linear(x, *p)[1]),
        params,
        tolerance=2e-14,
    )
    h = rng.standard_normal((2, 4, 5))
    affine = (rng.standard_normal((2, 5)), rng.standard_normal((2, 5)))
    check_vjp(
        lambda p: layer_norm(h, *p)[0],
        lambda p, u: layer_norm_vjp_params(u, layer_norm(h, *p)[1]),
        affine,
        tolerance=2e-14,
    )


WITHOUT_PARAMETERS = [n for n in cases(0, 2, 2, 2) if n.startswith(("activ", "clip", "ensemble"))]


@pytest.mark.parametrize("name", WITHOUT_PARAMETERS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_dtype_is_kept(name: str, dtype: Any) -> None:
    """Rules with parameters take the parameters' dtype: tests/nets checks them."""
    forward, jvp, vjp, x = cases(0, 4, 2, 5)[name]
    y, cache = forward(x.astype(dtype))
    assert y.dtype == dtype
    assert jvp(x.astype(dtype), cache).dtype == dtype
    assert vjp(y, cache).dtype == dtype


@pytest.mark.parametrize("name", cases(0, 2, 2, 2))
def test_zero_rows(name: str) -> None:
    forward, jvp, vjp, x = cases(0, 0, 2, 5)[name]
    y, cache = forward(x)
    assert y.size == 0
    assert jvp(x, cache).shape == y.shape
    assert vjp(y, cache).shape == x.shape
