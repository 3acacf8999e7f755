"""A network in one compiled call: the single blocks' numbers, bit for bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import chains, fused, network, updates
from qgf_ref.backends.numba.kernels.fused import numba_kernels
from qgf_ref.backends.numba.kernels.plans import Plan, row_parts
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import (
    MLPOptions,
    mlp,
    mlp_jvp,
    mlp_vjp,
    mlp_vjp_params,
)
from qgf_ref.nets.networks import forward_only
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.sharing import Helpers
from qgf_ref.threads import in_parallel
from tests.helpers.compiled import BY_BLOCK, network_of, same_bits


@pytest.mark.parametrize("options", [
    MLPOptions(), MLPOptions("mish", 1e-5, "two_pass", norm_after_activation=True),
])  # fmt: skip
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("widths", "members", "shared", "rows", "dtype"), [
    ((7, 32, 64, 1), None, True, 5, "float32"),
    ((7, 33, 40, 3), 2, True, 64, "float32"),
    ((32, 64, 64, 1), 3, False, 130, "float32"),
    ((40, 24, 1), 2, True, 1030, "float32"),  # beyond what one product sums over
    ((7, 32, 32, 2), None, True, 1500, "float32"),  # gone through in parts
    ((5, 16, 16, 2), 1, True, 9, "float64"),
    ((6, 4), None, True, 3, "float32"),
])  # fmt: skip
def test_one_call_gives_the_bits_of_the_single_blocks(
    widths: tuple[int, ...],
    members: int | None,
    shared: bool,
    rows: int,
    dtype: str,
    normed: bool,
    options: MLPOptions,
) -> None:
    real = np.dtype(dtype)
    params = network_of(widths, members, normed, real)
    rng = np.random.default_rng(1)
    lead = () if shared or members is None else (members,)
    x = rng.standard_normal((*lead, rows, widths[0])).astype(real)
    y, cache = mlp(params, x, options, numba_kernels)
    expected, by_block = mlp(params, x, options, BY_BLOCK)
    same_bits(y, expected)
    for one, other in zip(cache.blocks, by_block.blocks, strict=True):
        for name in ("x", "x_hat", "rstd", "slope"):
            same_bits(getattr(one, name), getattr(other, name))
    alone, nothing = mlp(params, x, options, numba_kernels.forwards_alone)
    same_bits(alone, expected)
    assert set(nothing.blocks) == {None}

    y_bar = rng.standard_normal(y.shape).astype(real)
    same_bits(mlp_vjp(y_bar, cache, numba_kernels), mlp_vjp(y_bar, by_block, BY_BLOCK))
    for input_bar in (True, False):
        x_bar, bar = mlp_vjp_params(y_bar, cache, numba_kernels, input_bar)
        wanted, expected_bar = mlp_vjp_params(y_bar, by_block, BY_BLOCK, input_bar)
        assert (x_bar is None) == (wanted is None) == (not input_bar)
        if x_bar is not None:
            same_bits(x_bar, wanted)
        for (name, one), (other_name, other) in zip(bar.named(), expected_bar.named(), strict=True):
            assert name == other_name
            same_bits(one, other)


def test_a_cotangent_that_members_share() -> None:
    params = network_of((5, 16, 3), members=2)
    x = np.ones((4, 5), np.float32)
    y, cache = mlp(params, x, MLPOptions(), numba_kernels)
    y_bar = np.random.default_rng(0).standard_normal(y.shape[1:]).astype(np.float32)
    both = np.stack([y_bar] * 2)
    same_bits(mlp_vjp(y_bar, cache, numba_kernels), mlp_vjp(both, cache, numba_kernels))
    _, shared = mlp_vjp_params(y_bar, cache, numba_kernels)
    _, spread = mlp_vjp_params(both, cache, numba_kernels)
    for one, other in zip(shared.arrays(), spread.arrays(), strict=True):
        same_bits(one, other)


def test_a_cotangent_of_another_shape_is_refused() -> None:
    params = network_of((5, 16, 3))
    _, cache = mlp(params, np.ones((4, 5), np.float32), MLPOptions(), numba_kernels)
    for shape in ((3, 3), (3, 4), (2, 4, 3)):
        for product in (mlp_vjp, mlp_vjp_params):
            with pytest.raises(ValueError, match=r"y_bar must have shape \(1, 4, 3\), got"):
                product(np.ones(shape, np.float32), cache, numba_kernels)
    with pytest.raises(ValueError, match=r"x_dot must have shape \(…, 4, 5\), got \(4, 4\)"):
        mlp_jvp(np.ones((4, 4), np.float32), cache, numba_kernels)


def test_a_network_is_one_call_forward_and_one_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(name)
            return function(*args)

        return call

    for module, names in (
        (chains, ("forward", "vjp", "vjp_params")),
        (updates, ("adam_steps", "moving_averages")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    params = network_of((6, 32, 32, 32, 1), members=2)
    critic = MLPCritic(params, kernels=numba_kernels)
    q, cache = critic.forward(np.ones((8, 4), np.float32), np.ones((8, 2), np.float32))
    critic.vjp(q, cache)
    bar = critic.vjp_params(q, cache)
    stepped, _ = adam(params, bar, AdamState.zero(params), kernels=numba_kernels)
    target_update(params, stepped, kernels=numba_kernels)
    assert calls == ["forward", "vjp", "vjp_params", "adam_steps", "moving_averages"]


def test_steps_of_all_arrays_are_those_of_each() -> None:
    params, bar = network_of((6, 32, 1), members=2), network_of((6, 32, 1), members=2, seed=1)
    once, state = adam(params, bar, AdamState.zero(params), kernels=numba_kernels)
    each, expected = adam(params, bar, AdamState.zero(params), kernels=BY_BLOCK)
    for found, wanted in (
        (once, each),
        (state.mean, expected.mean),
        (state.square, expected.square),
    ):
        for one, other in zip(found.arrays(), wanted.arrays(), strict=True):
            same_bits(one, other)
    moved = target_update(params, once, 0.3, numba_kernels)
    for one, other in zip(
        moved.arrays(), target_update(params, each, 0.3, BY_BLOCK).arrays(), strict=True
    ):
        same_bits(one, other)


def test_no_rows_and_wrong_widths_are_for_the_reference() -> None:
    params = network_of((6, 32, 1))
    assert mlp(params, np.ones((0, 6), np.float32), MLPOptions(), numba_kernels)[0].shape == (0, 1)
    with pytest.raises(ValueError, match="matmul"):
        mlp(params, np.ones((3, 5), np.float32), MLPOptions(), numba_kernels)


def test_parts_of_a_networks_caches_are_blocks() -> None:
    """A single block's products on one of a network's caches, and caches of two networks."""
    params = network_of((8, 32, 16, 1))
    x = np.ones((4, 8), np.float32)
    _, cache = mlp(params, x, MLPOptions(), numba_kernels)
    _, by_block = mlp(params, x, MLPOptions(), BY_BLOCK)
    y_bar = np.ones((4, 16), np.float32)
    x_bar, bars = numba_kernels.dense_vjp_params(y_bar, cache.blocks[1])
    expected, wanted = numba_kernels.dense_vjp_params(y_bar, by_block.blocks[1])
    assert x_bar is not None
    same_bits(x_bar, expected)
    same_bits(bars.kernel, wanted.kernel)
    one_bar = np.ones((4, 1), np.float32)
    mixed = (cache.blocks[0], by_block.blocks[1], cache.blocks[2])
    assert network.vjp_params(one_bar, mixed, True) is None
    _, bar = mlp_vjp_params(one_bar, cache._replace(blocks=mixed), numba_kernels)
    _, straight = mlp_vjp_params(one_bar, cache, numba_kernels)
    for one, other in zip(bar.arrays(), straight.arrays(), strict=True):
        same_bits(one, other)


def test_networks_for_forwards_alone() -> None:
    params = network_of((6, 32, 1), members=2)
    critic = MLPCritic(params, kernels=numba_kernels)
    obs, action = np.ones((8, 4), np.float32), np.ones((8, 2), np.float32)
    same_bits(forward_only(critic).forward(obs, action)[0], critic.forward(obs, action)[0])
    assert numba_kernels.forwards_alone.forwards_alone is numba_kernels.forwards_alone
    reference = MLPCritic(params)
    assert forward_only(reference) is reference
    nobody = object()
    assert forward_only(nobody) is nobody
    residual = MLPOptions(residual=True)
    square = network_of((8, 32, 32, 1))
    x = np.ones((4, 8), np.float32)
    y, cache = mlp(square, x, residual, numba_kernels.forwards_alone)
    same_bits(y, mlp(square, x, residual, numba_kernels)[0])
    assert cache.blocks == (None,) * 3
    assert fused.numba_kernels is numba_kernels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1025, 2560])
def test_many_rows_go_in_parts_that_idle_threads_take(rows: int, dtype: str) -> None:
    """As the reference, and the same bits with helpers. Measured: 5 eps of the largest number."""
    params = network_of((9, 32, 48, 3), dtype=np.dtype(dtype))
    rng = np.random.default_rng(0)
    x, y_bar = (rng.standard_normal((rows, n)).astype(dtype) for n in (9, 3))
    assert len(row_parts(Plan(1, rows, *[None] * 7), rows)) == 8  # type: ignore[arg-type]

    def products(kernels: Any) -> list[Array]:
        y, cache = mlp(params, x, MLPOptions("silu"), kernels)
        x_bar, bar = mlp_vjp_params(y_bar, cache, kernels)
        assert x_bar is not None
        return [y, x_bar, mlp_vjp(y_bar, cache, kernels), *bar.arrays()]

    alone, expected = products(numba_kernels), products(reference_kernels)
    for one, other in zip(alone, expected, strict=True):
        limit = 40 * np.finfo(dtype).eps * abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)
    helpers, together = Helpers(3), list[list[Array]]()

    def work(own: bool) -> None:
        with helpers.at_work():
            if own:
                together.append(products(numba_kernels))

    in_parallel([partial(work, own) for own in (True, False, False)], helpers.stop)
    for one, other in zip(together[0], alone, strict=True):
        same_bits(one, other)
