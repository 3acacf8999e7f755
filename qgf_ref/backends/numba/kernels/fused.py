"""The Numba member of the kernels: dense blocks and learning primitives in compiled code.

Single-threaded, and without Python's lock while it runs: a caller may run several at once. What it
does not bring, it leaves to the primitives in NumPy: complex numbers (a complex step), arrays of
no rows or columns, dtypes other than float32 and float64, and shapes that broadcast in another way
than documented. Arrays of two real dtypes are converted to the wider one, as NumPy does; arrays
that are not contiguous are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import blocks, network
from qgf_ref.backends.numba.kernels.cache import compiling
from qgf_ref.backends.numba.kernels.learning import LEARNING, adam_steps, moving_averages
from qgf_ref.backends.numba.kernels.leaves import DTYPES, Block, Parameters
from qgf_ref.backends.numba.kernels.memory import empty, scratch
from qgf_ref.backends.numba.kernels.network import CompiledCache
from qgf_ref.backends.numba.kernels.packing import buffer_sizes
from qgf_ref.ops import learning
from qgf_ref.ops.activations import activation, require_activation
from qgf_ref.ops.dense import (
    ACTIVATION,
    LINEAR,
    NORM,
    NORM_FIRST,
    Composed,
    DenseCache,
    DenseParts,
    DenseRule,
    DenseTangents,
    order_of,
    sublayers,
)
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.ops.layer_norm import LayerNormCache
from qgf_ref.ops.linear import LinearCache, linear

_reference = Composed(reference_kernels)


class NumbaKernels:
    """Kernels with compiled dense blocks. Use the one instance, `numba_kernels`.

    forwards_alone  the same for networks of which nobody asks a product: None in place of caches
    """

    def __init__(self, saving: bool = True) -> None:
        self._saving = saving
        self.forwards_alone = NumbaKernels(False) if saving else self

    def __call__(self, primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The compiled equal of a primitive of `qgf_ref.ops.learning`, else the primitive."""
        own = LEARNING.get(primitive)
        if own is None or kwargs:
            return primitive(*args, **kwargs)
        result = own(*args)
        return primitive(*args) if result is None else result

    def dense(self, x: Array, parts: DenseParts, rule: DenseRule) -> tuple[Array, Any]:
        """As `qgf_ref.ops.dense.Composed.dense`."""
        dtype = x.dtype
        if any(a is not None and a.dtype != dtype for a in parts):
            dtype = np.result_type(*(a for a in (x, *parts) if a is not None))
        if dtype not in DTYPES:
            return _reference.dense(x, parts, rule)
        if rule.activation is not None:
            require_activation(rule.activation)
        x = np.ascontiguousarray(x, dtype)
        parts = DenseParts(*[None if a is None else np.ascontiguousarray(a, dtype) for a in parts])  # type: ignore[arg-type]
        made = network.forward(x, Block(parts), (rule,), self._saving)
        if made is None:
            return _reference.dense(x, parts, rule)
        y, (cache,) = made
        return y, cache

    def network(
        self, x: Array, params: Parameters, rules: tuple[DenseRule, ...]
    ) -> tuple[Array, tuple[Any, ...]] | None:
        """The layers one after another in one call, as `dense` of each; None if it cannot be."""
        return network.forward(x, params, rules, self._saving)

    def network_vjp(self, y_bar: Array, caches: Sequence[Any]) -> Array | None:
        """Of such layers, as `dense_vjp` of each; None if it cannot be."""
        return network.vjp(y_bar, caches)

    def network_vjp_params(
        self, y_bar: Array, caches: Sequence[Any], input_bar: bool
    ) -> tuple[Array | None, list[DenseParts], dict[str, Any]] | None:
        """Of such layers, as `dense_vjp_params` of each, and what a set of these cotangents is to
        remember; None if it cannot be.
        """
        return network.vjp_params(y_bar, caches, input_bar)

    def dense_jvp(self, x_dot: Array, cache: Any) -> Array:
        """As `qgf_ref.ops.dense.Composed.dense_jvp`."""
        if isinstance(cache, DenseCache):
            return _reference.dense_jvp(x_dot, cache)
        if np.iscomplexobj(x_dot):  # linear in x_dot
            real, imaginary = (self.dense_jvp(part, cache) for part in (x_dot.real, x_dot.imag))
            return real + 1j * imaginary
        x, parts, x_hat, rstd, slope, rule, *_ = cache
        order = _order(parts, rule)
        x_dot = np.ascontiguousarray(x_dot, x.dtype)
        E, B, K, F = _sizes(x, parts)
        _require("x_dot", x_dot, B, K)
        y_dot = empty((E, B, F), x.dtype)
        buffers = _buffers(B, K, F, x.dtype)
        for e in range(E):
            blocks.jvp(
                _member(x_dot, e, 2), _member(parts.kernel, e, 2),
                _member(parts.scale, e, 1, parts.bias),
                x_hat[e].ravel(), rstd[e], slope[e].ravel(),
                B, K, F, order, slope.size > 0, y_dot[e].ravel(),
                buffers["packed"], buffers["a_work"], buffers["c_work"],
            )  # fmt: skip
        return y_dot if parts.kernel.ndim == 3 else y_dot[0]

    def dense_vjp(self, y_bar: Array, cache: Any) -> Array:
        """As `qgf_ref.ops.dense.Composed.dense_vjp`."""
        if isinstance(cache, DenseCache):
            return _reference.dense_vjp(y_bar, cache)
        if np.iscomplexobj(y_bar):
            real, imaginary = (self.dense_vjp(part, cache) for part in (y_bar.real, y_bar.imag))
            return real + 1j * imaginary
        x_bar = network.vjp(y_bar, [cache])
        assert x_bar is not None
        return x_bar

    def dense_vjp_params(
        self, y_bar: Array, cache: Any, input_bar: bool = True
    ) -> tuple[Array | None, DenseParts]:
        """As `qgf_ref.ops.dense.Composed.dense_vjp_params`."""
        if isinstance(cache, DenseCache):
            return _reference.dense_vjp_params(y_bar, cache, input_bar)
        if np.iscomplexobj(y_bar):
            (x_re, re), (x_im, im) = (
                self.dense_vjp_params(part, cache, input_bar) for part in (y_bar.real, y_bar.imag)
            )
            x_bar = None if x_re is None or x_im is None else x_re + 1j * x_im
            both = zip(re, im, strict=True)
            return x_bar, DenseParts(
                *(None if a is None or b is None else a + 1j * b for a, b in both)  # type: ignore[arg-type]
            )
        made = network.vjp_params(y_bar, [cache], input_bar)
        assert made is not None
        x_bar, (parts_bar,), _ = made
        return x_bar, parts_bar

    def adam_steps(self, *sets_and_settings: Any) -> Any:
        """Adam on all arrays of a network in one call; None if it cannot be."""
        return adam_steps(*sets_and_settings)

    def moving_averages(self, target: Parameters, online: Parameters, tau: float) -> Any:
        """τ·online + (1 − τ)·target of all arrays; None if it cannot be."""
        return moving_averages(target, online, tau)

    def dense_tangents(
        self, x_dot: Array, cache: Any
    ) -> tuple[Array, tuple[DenseCache, DenseTangents]]:
        """As `qgf_ref.ops.dense.Composed.dense_tangents`, in NumPy."""
        composed = cache if isinstance(cache, DenseCache) else _composed(cache)
        y_dot, tangents = _reference.dense_tangents(x_dot, composed)
        return y_dot, (composed, tangents)

    def dense_vjp_jvp(
        self, y_bar: Array, y_bar_dot: Array, cache: Any, tangents: Any, input_bar: bool = True
    ) -> tuple[Array | None, Array]:
        """As `qgf_ref.ops.dense.Composed.dense_vjp_jvp`, in NumPy."""
        composed, inside = tangents
        return _reference.dense_vjp_jvp(y_bar, y_bar_dot, composed, inside, input_bar)


numba_kernels = NumbaKernels()
"""The one instance."""


def prepare(dtype: np.dtype[Any]) -> None:
    """Compile everything for `dtype`, or read it from the disk, by running it once."""
    one = np.ones((1, 1), dtype)
    with compiling(f"the kernels of training, {dtype.name}"):
        _, cache = numba_kernels.dense(
            one, DenseParts(one, one[0], one[0], one[0]), DenseRule("gelu")
        )
        numba_kernels.dense_jvp(one, cache)
        numba_kernels.dense_vjp(one, cache)
        numba_kernels.dense_vjp_params(one, cache)
        for primitive, arguments in (
            (learning.path_point, (one, one, one[0])),
            (learning.squared_error, (one, one)),
            (learning.expectile_error, (one[0], one[0], one[0], 0.5)),
            (learning.adam_step, (one, one, one, one, 1, 0.1)),
            (learning.moving_average, (one, one, 0.5)),
            (learning.sum_of_squares, (one,)),
            (learning.all_scaled, (0.5, one)),
        ):
            numba_kernels(primitive, *arguments)
        params = Block(DenseParts(one, one[0]))
        numba_kernels.adam_steps(params, params, params, params, 1, 0.1)
        numba_kernels.moving_averages(params, params, 0.5)


def _buffers(B: int, K: int, F: int, dtype: np.dtype[Any]) -> dict[str, Array]:
    """This thread's scratch memory of a layer, by name."""
    sizes = buffer_sizes(B, K, F, dtype)
    return dict(zip(sizes, scratch(sizes, dtype), strict=True))


def _composed(cache: CompiledCache) -> DenseCache:
    """What the composition would have saved. A matrix product more, unless LayerNorm is first."""
    x, parts, x_hat, rstd, _, rule, *_ = cache
    order = _order(parts, rule)
    saved: dict[Any, Any] = {LINEAR: LinearCache(x, parts.kernel)}
    if parts.scale is not None and parts.offset is not None:
        x_hat, rstd = (a if parts.kernel.ndim == 3 else a[0] for a in (x_hat, rstd))
        saved[NORM] = LayerNormCache(x_hat, rstd[..., None], parts.scale)
        y = x_hat * parts.scale[..., None, :] + parts.offset[..., None, :]
    if rule.activation is not None:
        y = y if order == NORM_FIRST else linear(x, parts.kernel, parts.bias)[0]
        saved[ACTIVATION] = activation(y, rule.activation)[1]
    return DenseCache(tuple((sublayer, saved[sublayer]) for sublayer in sublayers(parts, rule)))


def _require(name: str, array: Array, rows: int, columns: int) -> None:
    """Raise ValueError on another shape: compiled code would read on, past the array's end."""
    if array.shape[-2:] != (rows, columns):
        raise ValueError(f"{name} must have shape (…, {rows}, {columns}), got {array.shape}")


def _order(parts: DenseParts, rule: DenseRule) -> int:
    return order_of(parts.normed, rule.activation is not None, rule.norm_after_activation)


def _sizes(x: Array, parts: DenseParts) -> tuple[int, int, int, int]:
    """E, B, I, F."""
    *members, K, F = parts.kernel.shape
    return (members[0] if members else 1), x.shape[-2], K, F


def _member(array: Array | None, e: int, ndim: int, absent: Array | None = None) -> Array:
    """Member e of an array, if it has the ensemble axis, flat; of `absent` if there is no array."""
    array = absent if array is None else array
    assert array is not None
    return (array[e] if array.ndim > ndim else array).reshape(-1)
