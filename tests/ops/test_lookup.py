"""The embedding's gather, its jvp and its scatter-add."""

from __future__ import annotations

import numpy as np

from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.ops.lookup import lookup, lookup_jvp, lookup_vjp_params


def test_products_in_the_table() -> None:
    """Rows that are chosen several times, once, and never."""
    rng = np.random.default_rng(0)
    like, chosen = np.zeros((7, 5)), np.array([3, 0, 3, 1, 3, 0, 4])
    table = rng.standard_normal((6, 2))

    def f(x: np.ndarray) -> np.ndarray:
        return lookup(x, chosen, like)[0]

    def jvp(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        return lookup_jvp(u, lookup(x, chosen, like)[1])

    def vjp(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        return lookup_vjp_params(u, lookup(x, chosen, like)[1])

    check_jvp(f, jvp, table)
    check_vjp(f, vjp, table)
    check_adjoint(f, jvp, vjp, table)
    bar = vjp(table, np.ones((7, 2)))
    np.testing.assert_array_equal(bar[:, 0], [2, 1, 0, 3, 1, 0])


def test_one_index_serves_every_row() -> None:
    table = np.arange(6.0).reshape(3, 2)
    y, cache = lookup(table, 1, np.zeros((4, 9)))
    np.testing.assert_array_equal(y, np.tile([2.0, 3.0], (4, 1)))
    np.testing.assert_array_equal(lookup_vjp_params(y, cache), [[0, 0], [8, 12], [0, 0]])
    assert lookup(table, 1, np.zeros((0, 9)))[0].shape == (0, 2)
