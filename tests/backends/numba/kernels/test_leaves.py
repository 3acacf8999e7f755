"""Where arrays lie: what is remembered of it is true, and nobody's memory is overwritten."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.backends.numba.kernels import memory, network
from qgf_ref.backends.numba.kernels.fused import numba_kernels
from qgf_ref.backends.numba.kernels.leaves import leaves_of
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import (
    LayerParams,
    MLPOptions,
    MLPParams,
    mlp,
    mlp_vjp_params,
)
from tests.helpers.compiled import BY_BLOCK, network_of, same_bits


def _from_another_process(params: MLPParams) -> MLPParams:
    read: MLPParams = pickle.loads(pickle.dumps(params))  # noqa: S301
    return read


@pytest.mark.parametrize("together", [memory.TOGETHER, 0])
def test_what_the_steps_know_of_their_results_is_true(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses that are told, rather than found out: as of a copy, which knows nothing."""
    monkeypatch.setattr(memory, "TOGETHER", together)
    params = network_of((6, 32, 32, 1), members=2)
    critic = MLPCritic(params, kernels=numba_kernels)
    q, cache = critic.forward(np.ones((8, 4), np.float32), np.ones((8, 2), np.float32))
    bar = critic.vjp_params(q, cache)
    once, state = adam(params, bar, AdamState.zero(params), kernels=numba_kernels)
    target = target_update(params, once, kernels=numba_kernels)
    plain = network_of((3, 8, 2), normed=False)
    _, plain_cache = mlp(plain, np.ones((4, 3), np.float32), MLPOptions(), numba_kernels)
    _, plain_bar = mlp_vjp_params(np.ones((4, 2), np.float32), plain_cache, numba_kernels)
    for told in (bar, once, state.mean, state.square, target, plain_bar):
        assert "numba" in told.memo
        leaves, found = leaves_of(told), leaves_of(told.replace(told.arrays()))
        assert leaves is not None
        assert found is not None
        assert (leaves.dtype, leaves.shapes) == (found.dtype, found.shapes)
        same_bits(leaves.sizes, found.sizes)
        same_bits(leaves.addresses, found.addresses)
        pieces = {id(a.base) for a in told.arrays() if a.base is not None}
        assert (len(pieces) == 1) == (together > 0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _from_another_process])
def test_a_copy_knows_no_address(copied: Any) -> None:
    params = network_of((6, 32, 1))
    x = np.ones((3, 6), np.float32)
    y, _ = mlp(params, x, MLPOptions(), numba_kernels)
    assert params.memo
    other = copied(params)
    assert not other.memo
    del params
    gc.collect()
    same_bits(mlp(other, x, MLPOptions(), numba_kernels)[0], y)


@pytest.mark.parametrize("change", [
    lambda a: a.astype(np.float64), np.asfortranarray, lambda a: a.astype(">f4"),
    lambda a: a.astype(np.longdouble), lambda a: a.astype(np.float16),
])  # fmt: skip
def test_other_arrays_go_block_by_block(change: Any) -> None:
    """Of several dtypes, in another order: the numbers of the blocks, which convert or refuse."""
    params = network_of((6, 32, 32, 1))
    first = params.layers[0]
    odd = MLPParams((LayerParams(change(first.kernel), *first.parts()[1:]), *params.layers[1:]))  # type: ignore[arg-type]
    x = np.ones((3, 6), np.float32)
    assert leaves_of(odd) is None
    assert network.forward(x, odd, MLPOptions().rules(3)) is None
    y, cache = mlp(odd, x, MLPOptions(), numba_kernels)
    same_bits(y, mlp(odd, x, MLPOptions(), BY_BLOCK)[0])
    _, bar = mlp_vjp_params(y, cache, numba_kernels)
    stepped, _ = adam(odd, bar, AdamState.zero(odd), kernels=numba_kernels)
    each, _ = adam(odd, bar, AdamState.zero(odd), kernels=BY_BLOCK)
    for one, other in zip(stepped.arrays(), each.arrays(), strict=True):
        same_bits(one, other)


def test_memory_maps_and_read_only_arrays(tmp_path: Path) -> None:
    params = network_of((6, 32, 1))
    expected, _ = mlp(params, np.ones((3, 6), np.float32), MLPOptions(), numba_kernels)
    kept = []
    for i, array in enumerate(params.arrays()):
        np.save(tmp_path / f"{i}.npy", array)
        kept.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    np.save(tmp_path / "x.npy", np.ones((3, 6), np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    mapped = params.replace(tuple(kept))
    y, cache = mlp(mapped, x, MLPOptions(), numba_kernels)
    same_bits(y, expected)
    assert mlp_vjp_params(y, cache, numba_kernels)[0] is not None


@pytest.mark.parametrize("together", [memory.TOGETHER, 0])
def test_results_are_not_overwritten_while_somebody_holds_them(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TOGETHER", together)
    params = network_of((96, 128, 128, 1), members=2)
    x = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    y, cache = mlp(params, x, MLPOptions(), numba_kernels)
    _, bar = mlp_vjp_params(y, cache, numba_kernels)
    held = [y, *(a for block in cache.blocks for a in (block.x_hat, block.slope)), *bar.arrays()]
    copies = [np.copy(a) for a in held]
    one = held[-2:]
    for _ in range(20):
        other, other_cache = mlp(params, -2 * x, MLPOptions(), numba_kernels)
        mlp_vjp_params(other, other_cache, numba_kernels)
    for a, b in zip(held, copies, strict=True):
        same_bits(a, b)
    del held, y, cache, bar, a
    for _ in range(20):  # a part of what a call made keeps all of it
        other, other_cache = mlp(params, -2 * x, MLPOptions(), numba_kernels)
        mlp_vjp_params(other, other_cache, numba_kernels)
    for a, b in zip(one, copies[-2:], strict=True):
        same_bits(a, b)
