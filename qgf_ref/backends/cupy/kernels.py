"""Dense blocks and learning primitives on the GPU, one after another.

CuPy arrays in give CuPy arrays out. NumPy arrays are uploaded, and each block's result comes back:
slow, and right for all that is not recorded. Parameters are uploaded once, and remembered while
they live.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.cupy.cublas import Matrices
from qgf_ref.backends.cupy.device import Device, device
from qgf_ref.backends.cupy.primitives import SUBSTITUTES, adam_steps, moving_averages
from qgf_ref.backends.cupy.structs import BLOCK, SEED, arguments, struct
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.dense import Composed, DenseCache, DenseParts, DenseRule, order_of
from qgf_ref.ops.kernels import reference_kernels

_NO_SEED = struct(SEED, numbers=0, head=0)
COLUMN_LANES, COLUMNS_TOGETHER = 16, 32
"""Of `block_columns`: rows at once, and columns of a block."""


class BlockCache(NamedTuple):
    """What a block saves, on the device: its input, parameters, z = x W, and moments (E, B, 2).

    host  whether it was given NumPy arrays, and gives some
    """

    x: Any
    parts: Any
    rule: DenseRule
    z: Any
    stats: Any
    host: bool


class DeviceKernels:
    """`qgf_ref.ops.dense.FusedKernels` on one GPU; what it does not know, the reference does."""

    steps_at_once = True

    def __init__(self, here: Device) -> None:
        self.device = here
        self.composed = Composed(reference_kernels)
        self._uploaded: dict[int, Any] = {}

    def __call__(self, primitive: Any, *args: Any, **kwargs: Any) -> Any:
        """What the primitive returns: of CuPy arrays, computed on the device."""
        substitute = SUBSTITUTES.get(primitive)
        if substitute is not None and any(map(self.device.is_own, args)):
            with self.device.working():
                return substitute(self.device, *args, **kwargs)
        return primitive(*args, **kwargs)

    def adam_steps(
        self, params: Any, params_bar: Any, mean: Any, square: Any, *settings: Any
    ) -> Any:
        """Adam on all arrays, of any number of networks, in one launch: what θ, m and s become.

        None of NumPy arrays.
        """
        leaves = _leaves(params, params_bar, mean, square)
        if not self.device.is_own(leaves[0][0]):
            return None
        with self.device.working():
            stepped = adam_steps(self.device, leaves, *settings)
        return [params.replace(part) for part in zip(*stepped, strict=True)]

    def moving_averages(self, target: Any, online: Any, tau: float) -> Any:
        """τ·online + (1 − τ)·target of all arrays; None of NumPy arrays."""
        pairs = _leaves(target, online)
        if not self.device.is_own(pairs[0][0]):
            return None
        with self.device.working():
            moved = moving_averages(self.device, pairs, tau)
        return target.replace(iter(moved))

    def dense(self, x: Array, parts: DenseParts, rule: DenseRule) -> tuple[Array, Any]:
        """y = f(LayerNorm(x W + b)), in the rule's order, and what the products need."""
        arrays = [array for array in (x, *parts) if array is not None]
        if {array.dtype.name for array in arrays} - {arrays[0].dtype.name} or (
            x.dtype.name not in REAL_DTYPES or not x.size or x.ndim > parts.kernel.ndim
        ):
            return self.composed.dense(x, parts, rule)
        host = isinstance(x, np.ndarray)
        with self.device.working():
            held: Any = [None if a is None else self._resident(a) for a in parts]
            parts = DenseParts(*held)
            x = self._given(x)
            z = self._times(x, parts.kernel)
            members, rows = z.shape[0] if z.ndim == 3 else 1, z.shape[-2]
            stats = self.device.empty((members, rows, 2), z.dtype)
            cache = BlockCache(x, parts, rule, z, stats, host)
            y = self.device.empty(z.shape, z.dtype)
            args = (*_pointers(z, y, stats), 0, 0, 1, 0, 0, 0, 0, 0, 0)
            self._rows("block_forward", cache, args)
            return self._out(y, host), cache

    def dense_jvp(self, x_dot: Array, cache: Any) -> Array:
        """y_dot = (∂y/∂x) x_dot."""
        return self.dense_tangents(x_dot, cache)[0]

    def dense_tangents(self, x_dot: Array, cache: Any) -> tuple[Array, Any]:
        """y_dot, and the tangent before LayerNorm and activation."""
        if isinstance(cache, DenseCache):
            return self.composed.dense_tangents(x_dot, cache)
        with self.device.working():
            z_dot = self._times(self._given(x_dot), cache.parts.kernel)
            y_dot = self.device.empty(z_dot.shape, z_dot.dtype)
            pointers = _pointers(cache.z, cache.stats, z_dot)
            self._rows("block_tangent", cache, (0, 0, *pointers, 0, y_dot.data.ptr))
            return self._out(y_dot, cache.host), z_dot

    def dense_vjp(self, y_bar: Array, cache: Any) -> Array:
        """x_bar = (∂y/∂x)ᵀ y_bar, summed over the ensemble members that share x."""
        if isinstance(cache, DenseCache):
            return self.composed.dense_vjp(y_bar, cache)
        with self.device.working():
            return self._out(self._back(self._before(self._given(y_bar), cache), cache), cache.host)

    def dense_vjp_params(
        self, y_bar: Array, cache: Any, input_bar: bool = True
    ) -> tuple[Array | None, DenseParts]:
        """x_bar, or None if it is not asked for, and the parameters' cotangents."""
        if isinstance(cache, DenseCache):
            return self.composed.dense_vjp_params(y_bar, cache, input_bar)
        with self.device.working():
            y_bar = self._given(y_bar)
            z_bar = self._before(y_bar, cache)
            kernel, empty = cache.parts.kernel, self.device.empty
            bars: Any = [None if a is None else empty(a.shape, a.dtype) for a in cache.parts]
            members, rows, columns = _sizes(cache)
            inner = kernel.shape[-2]
            x = Matrices(cache.x.data.ptr, inner, _step(cache.x, members), True)
            right = Matrices(z_bar.data.ptr, columns, rows * columns)
            out = Matrices(bars[0].data.ptr, columns, inner * columns)
            self.device.product(kernel.dtype, (inner, columns, rows), x, right, out, members)
            more = [0 if bar is None else bar.data.ptr for bar in bars[1:]]
            pointers = (*_pointers(cache.z, cache.stats, y_bar, z_bar), *more)
            self.device.launch(
                self._key(cache), "block_columns", (-(-columns // COLUMNS_TOGETHER), members),
                (COLUMNS_TOGETHER, COLUMN_LANES), arguments((self._block(cache), *pointers)),
                3 * COLUMN_LANES * COLUMNS_TOGETHER * kernel.dtype.itemsize,
            )  # fmt: skip
            x_bar = self._out(self._back(z_bar, cache), cache.host) if input_bar else None
            given: Any = [None if bar is None else self._out(bar, cache.host) for bar in bars]
            return x_bar, DenseParts(*given)

    def dense_vjp_jvp(
        self, y_bar: Array, y_bar_dot: Array, cache: Any, tangents: Any, input_bar: bool = True
    ) -> tuple[Array | None, Array]:
        """x_bar, or None if it is not asked for, and its derivative x_bar_dot."""
        if isinstance(cache, DenseCache):
            return self.composed.dense_vjp_jvp(y_bar, y_bar_dot, cache, tangents, input_bar)
        with self.device.working():
            bars = [self._given(y_bar), self._given(y_bar_dot)]
            z_bars = [self.device.empty(cache.z.shape, cache.z.dtype) for _ in bars]
            pointers = _pointers(cache.z, cache.stats, tangents)
            args = (0, 0, *pointers, _NO_SEED, *_pointers(*bars, *z_bars), 0)
            self._rows("block_bent", cache, args)
            x_bar = self._out(self._back(z_bars[0], cache), cache.host) if input_bar else None
            return x_bar, self._out(self._back(z_bars[1], cache), cache.host)

    def _before(self, y_bar: Any, cache: BlockCache) -> Any:
        """The cotangent of z."""
        z_bar = self.device.empty(cache.z.shape, cache.z.dtype)
        args = (0, 0, *_pointers(cache.z, cache.stats), _NO_SEED, *_pointers(y_bar, z_bar), 0)
        self._rows("block_back", cache, args)
        return z_bar

    def _times(self, x: Any, kernel: Any) -> Any:
        """x W, (B, F), or (E, B, F) if one of them has members."""
        members = kernel.shape[0] if kernel.ndim == 3 else 1
        (inner, columns), rows = kernel.shape[-2:], x.shape[-2]
        z = self.device.empty((*kernel.shape[:-2], rows, columns), x.dtype)
        left = Matrices(x.data.ptr, inner, _step(x, members))
        right = Matrices(kernel.data.ptr, columns, inner * columns)
        out = Matrices(z.data.ptr, columns, rows * columns)
        self.device.product(x.dtype, (rows, columns, inner), left, right, out, members)
        return z

    def _back(self, z_bar: Any, cache: BlockCache) -> Any:
        """z_bar Wᵀ, shaped like x."""
        kernel, x = cache.parts.kernel, cache.x
        members, rows, columns = _sizes(cache)
        inner = kernel.shape[-2]
        x_bar = self.device.empty(x.shape, x.dtype)
        # of an x that members share, one after another, each added
        rounds = members if x.ndim < z_bar.ndim else 1
        for e in range(rounds):
            at = e * z_bar.dtype.itemsize
            left = Matrices(z_bar.data.ptr + at * rows * columns, columns, rows * columns)
            right = Matrices(kernel.data.ptr + at * inner * columns, columns, inner * columns, True)
            out = Matrices(x_bar.data.ptr, inner, rows * inner)
            sizes, count = (rows, inner, columns), members // rounds
            self.device.product(x.dtype, sizes, left, right, out, count, add=e > 0)
        return x_bar

    def _rows(self, name: str, cache: BlockCache, args: tuple[Any, ...]) -> None:
        members, rows, _ = _sizes(cache)
        values = arguments((self._block(cache), *args))
        self.device.rows(self._key(cache), name, members * rows, values)

    def _key(self, cache: BlockCache) -> tuple[str, str]:
        return cache.z.dtype.name, cache.rule.activation or "gelu"

    def _block(self, cache: BlockCache) -> Any:
        members, rows, columns = _sizes(cache)
        (_, bias, scale, offset), rule = cache.parts, cache.rule
        active = rule.activation is not None
        return struct(
            BLOCK, rows=rows, capacity=rows, columns=columns, stride=columns,
            parameter_stride=columns, members=members,
            norm=order_of(cache.parts.normed, active, rule.norm_after_activation),
            fast=rule.variance == "fast",
            activation=ACTIVATIONS.index(rule.activation) if rule.activation else -1,
            eps=rule.layer_norm_eps, bias=bias.data.ptr,
            scale=0 if scale is None else scale.data.ptr,
            offset=0 if offset is None else offset.data.ptr,
        )  # fmt: skip

    def _given(self, array: Any) -> Any:
        """On the device, contiguous, and where 16 bytes can be read at once."""
        array = self.device.array(array)
        return array if array.data.ptr % 16 == 0 else array.copy()

    def _resident(self, array: Any) -> Any:
        """A parameter on the device: uploaded once, while the NumPy array lives."""
        if self.device.is_own(array):
            return self._given(array)
        found = self._uploaded.get(id(array))
        if found is None:
            found = self._uploaded[id(array)] = self._given(array)
            weakref.finalize(array, self._uploaded.pop, id(array), None)
        return found

    def _out(self, array: Any, host: bool) -> Any:
        return array.get() if host else array


def _sizes(cache: BlockCache) -> tuple[int, int, int]:
    """Members, rows, columns of z."""
    return (cache.z.shape[0] if cache.z.ndim == 3 else 1), *cache.z.shape[-2:]


def _step(x: Any, members: int) -> int:
    """From a member's x to the next one's; 0 where they share it."""
    return x.shape[-2] * x.shape[-1] if x.ndim == 3 and members > 1 else 0


def _pointers(*arrays: Any) -> tuple[int, ...]:
    return tuple(int(array.data.ptr) for array in arrays)


@cache
def _kernels(here: Device) -> DeviceKernels:
    return DeviceKernels(here)


def device_kernels(tf32: bool = False) -> DeviceKernels:
    """The current GPU's. Raises InputError as `qgf_ref.backends.cupy.device.cupy`."""
    return _kernels(device(tf32))


def _leaves(*sets: Any) -> list[Any]:
    """Corresponding arrays of the parameter sets."""
    return list(zip(*(each.arrays() for each in sets), strict=True))
