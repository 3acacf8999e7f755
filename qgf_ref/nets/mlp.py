"""The one multilayer perceptron: parameters, forward, and its products.

Every hidden layer is linear → LayerNorm (where its parameters have one) → activation; the output
layer is linear alone. Each is a dense block (`qgf_ref.ops.dense`). The leading ensemble axis of
`qgf_ref.ops.linear` carries over: an ensemble is an MLP whose parameters have that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.ops import layer_norm as ln
from qgf_ref.ops.dense import DenseParts, DenseRule, fused
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.structure import zeros


@dataclass(frozen=True)
class LayerParams:
    """One layer. kernel (I, F), bias (F,); scale and offset (F,) if LayerNorm follows.

    With a leading E on every array for an ensemble.
    """

    kernel: Array
    bias: Array
    scale: Array | None = None
    offset: Array | None = None

    def parts(self) -> tuple[Array | None, ...]:
        """kernel, bias, scale, offset."""
        return self.kernel, self.bias, self.scale, self.offset


@dataclass(frozen=True)
class MLPParams:
    """Parameters of an MLP: hidden layers, then the output layer. Also holds their gradients.

    table    (labels, columns): the columns that stand for a label, if the network takes one
    encoder  of a step, if the network takes one: MLP₀ and, as its table (n, 1), the frequencies of
             the features that MLP₀ reads
    """

    layers: tuple[LayerParams, ...]
    table: Array | None = None
    encoder: MLPParams | None = None

    def __repr__(self) -> str:
        widths = "×".join(str(layer.kernel.shape[-1]) for layer in self.layers)
        members = "" if self.ensemble is None else f", {self.ensemble} members"
        dtype = self.layers[0].kernel.dtype
        return f"MLPParams({self.in_features}×{widths}{members}, {self.count:,} in {dtype})"

    def named(self) -> Iterator[tuple[str, Array]]:
        """('table', array) and 'encoder.…' if it has them, then ('layers.0.kernel', array), …"""
        if self.table is not None:
            yield "table", self.table
        if self.encoder is not None:
            yield from ((f"encoder.{name}", array) for name, array in self.encoder.named())
        for i, layer in enumerate(self.layers):
            for field, part in zip(fields(layer), layer.parts(), strict=True):
                if part is not None:
                    yield f"layers.{i}.{field.name}", part

    def arrays(self) -> tuple[Array, ...]:
        """The arrays alone, in the order of `named`."""
        within = () if self.encoder is None else self.encoder.arrays()
        parts = (part for layer in self.layers for part in layer.parts())
        return tuple(part for part in (self.table, *within, *parts) if part is not None)

    def map(self, f: Callable[..., Array], *others: MLPParams) -> MLPParams:
        """f applied to corresponding arrays of this and the other parameter sets."""
        rest = [other.arrays() for other in others]
        return self.replace(f(*leaf) for leaf in zip(self.arrays(), *rest, strict=True))

    def replace(self, arrays: Iterator[Array] | tuple[Array, ...]) -> MLPParams:
        """The same structure around other arrays, given in the order of `named`."""
        values = iter(arrays)
        table = None if self.table is None else next(values)
        encoder = None if self.encoder is None else self.encoder.replace(values)
        layers = tuple(
            LayerParams(*(None if part is None else next(values) for part in layer.parts()))  # type: ignore[arg-type]
            for layer in self.layers
        )
        return MLPParams(layers, table, encoder)

    def astype(self, dtype: DTypeLike) -> MLPParams:
        """Every array in another dtype."""
        return self.map(lambda a: a.astype(dtype))

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(self.layers[0].kernel.shape[-2])

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return int(self.layers[-1].kernel.shape[-1])

    @property
    def ensemble(self) -> int | None:
        """Number of members, or None without an ensemble axis."""
        kernel = self.layers[0].kernel
        return int(kernel.shape[0]) if kernel.ndim == 3 else None

    @property
    def count(self) -> int:
        """Number of scalar parameters."""
        return sum(a.size for a in self.arrays())


MLPCache = tuple[Any, ...]
"""What each layer's dense block saved."""


@dataclass(frozen=True)
class MLPOptions:
    """What the parameters do not say: activation name, LayerNorm eps and variance formula."""

    activation: str = "gelu"
    layer_norm_eps: float = ln.EPS
    variance: ln.Variance = "fast"


def mlp(
    params: MLPParams, x: Array, options: MLPOptions, kernels: Kernels = reference_kernels
) -> tuple[Array, MLPCache]:
    """y = MLP(x). x (B, I) → y (B, F_out), or (E, B, F_out) for an ensemble.

    jvp, vjp: `mlp_jvp`, `mlp_vjp` (in x) and `mlp_vjp_params` (in the parameters as well).
    Source: official.md, section 1 (utils/networks.py).
    """
    blocks = fused(kernels)
    caches = []
    last = len(params.layers) - 1
    for i, layer in enumerate(params.layers):
        activation = options.activation if i < last else None
        rule = DenseRule(activation, options.layer_norm_eps, options.variance)
        parts = DenseParts(layer.kernel, layer.bias, layer.scale, layer.offset)
        x, cache = blocks.dense(x, parts, rule)
        caches.append(cache)
    return x, tuple(caches)


def mlp_jvp(x_dot: Array, cache: MLPCache, kernels: Kernels = reference_kernels) -> Array:
    """y_dot = (∂MLP/∂x) x_dot."""
    blocks = fused(kernels)
    for layer in cache:
        x_dot = blocks.dense_jvp(x_dot, layer)
    return x_dot


def mlp_vjp(y_bar: Array, cache: MLPCache, kernels: Kernels = reference_kernels) -> Array:
    """x_bar = (∂MLP/∂x)ᵀ y_bar, summed over the ensemble members that share x."""
    blocks = fused(kernels)
    for layer in reversed(cache):
        y_bar = blocks.dense_vjp(y_bar, layer)
    return y_bar


def mlp_vjp_params(
    y_bar: Array, cache: MLPCache, kernels: Kernels = reference_kernels, input_bar: bool = True
) -> tuple[Array | None, MLPParams]:
    """(x_bar, params_bar): the cotangents of the input and of every parameter, in one sweep.

    input_bar  False leaves x_bar out (None): no parameter's cotangent depends on it, and it is a
               matrix product as large as the first layer's forward
    """
    blocks = fused(kernels)
    layers_bar: list[LayerParams] = []
    x_bar: Array | None = None
    for i, layer in reversed(tuple(enumerate(cache))):
        x_bar, parts_bar = blocks.dense_vjp_params(y_bar, layer, input_bar or i > 0)
        layers_bar.append(LayerParams(*parts_bar))
        if x_bar is not None:
            y_bar = x_bar
    return x_bar, MLPParams(tuple(reversed(layers_bar)))


def mlp_vjp_jvp(
    x_dot: Array,
    y_bar: Array,
    cache: MLPCache,
    kernels: Kernels = reference_kernels,
    y_bar_dot: Array | None = None,
) -> Array:
    """x_bar_dot: the derivative of `mlp_vjp` along (x_dot, y_bar_dot), shaped like x.

    x_dot (B, I), y_bar (B, F) or (E, B, F); y_bar_dot like y_bar, or None for a y_bar that is
    held: x_bar_dot is then the Hessian of ⟨y_bar, MLP(x)⟩ times x_dot.
    Cost: one sweep of jvps, then one sweep backward that carries y_bar and y_bar_dot: three times
    the matrix products of a jvp, less one of the first layer.
    """
    blocks = fused(kernels)
    tangents = []
    for layer in cache:
        x_dot, inside = blocks.dense_tangents(x_dot, layer)
        tangents.append(inside)
    if y_bar_dot is None:
        y_bar_dot = kernels(zeros, y_bar)
    for i, layer in reversed(tuple(enumerate(cache))):
        x_bar, y_bar_dot = blocks.dense_vjp_jvp(y_bar, y_bar_dot, layer, tangents[i], i > 0)
        if x_bar is not None:
            y_bar = x_bar
    return y_bar_dot
