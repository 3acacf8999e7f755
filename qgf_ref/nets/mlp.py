"""The one multilayer perceptron: parameters, forward, and its products.

Every hidden layer is linear → LayerNorm (where its parameters have one) → activation, or the last
two the other way round; the output layer is linear alone. Each is a dense block
(`qgf_ref.ops.dense`). With residual blocks, a hidden layer after the first whose input and output
have one width is y = x + block(x). The leading ensemble axis of `qgf_ref.ops.linear` carries over:
an ensemble is an MLP whose parameters have that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.ops import layer_norm as ln
from qgf_ref.ops.dense import DenseParts, DenseRule, fused
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.structure import axpy, zeros


@dataclass(frozen=True)
class LayerParams:
    """One layer. kernel (I, F), bias (F,); scale and offset (F,) if it has a LayerNorm.

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
        return self._arrays

    @cached_property
    def _arrays(self) -> tuple[Array, ...]:
        within = () if self.encoder is None else self.encoder.arrays()
        parts = [part for layer in self.layers for part in layer.parts()]
        return tuple([part for part in (self.table, *within, *parts) if part is not None])

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, in this process or another: without what holds of these arrays alone."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def memo(self) -> dict[str, Any]:
        """What kernels work out of these arrays once, by the kernels' name."""
        return {}

    def map(self, f: Callable[..., Array], *others: MLPParams) -> MLPParams:
        """f applied to corresponding arrays of this and the other parameter sets."""
        rest = [other.arrays() for other in others]
        return self.replace(f(*leaf) for leaf in zip(self.arrays(), *rest, strict=True))

    def replace(self, arrays: Iterator[Array] | tuple[Array, ...]) -> MLPParams:
        """The same structure around other arrays, given in the order of `named`."""
        values = iter(arrays)
        table = None if self.table is None else next(values)
        encoder = None if self.encoder is None else self.encoder.replace(values)
        layers = [
            LayerParams(*[None if part is None else next(values) for part in layer.parts()])  # type: ignore[arg-type]
            for layer in self.layers
        ]
        return MLPParams(tuple(layers), table, encoder)

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


class MLPCache(NamedTuple):
    """Of each layer, what its dense block saved, and whether its input is added to its output."""

    blocks: tuple[Any, ...]
    residual: tuple[bool, ...]


@dataclass(frozen=True)
class MLPOptions:
    """What the parameters do not say.

    activation             of the hidden layers, a name of `qgf_ref.ops.activations`
    layer_norm_eps         inside the square root of every LayerNorm
    variance               LayerNorm's formula, see `qgf_ref.ops.layer_norm.layer_norm`
    norm_after_activation  a hidden layer is y = LayerNorm(f(x W + b)), as in the networks of DQC
                           and horizon-reduction (goal_conditioned.md, section 2), in place of
                           y = f(LayerNorm(x W + b)), QGF's
    residual               y = x + block(x), the whole dense block, in hidden layers after the first
                           whose kernel is square. The first layer, which brings the network's
                           inputs to the hidden width, is never one, whatever its input's width;
                           nor is the output layer
    """

    activation: str = "gelu"
    layer_norm_eps: float = ln.EPS
    variance: ln.Variance = "fast"
    norm_after_activation: bool = False
    residual: bool = False

    def rule(self, hidden: bool) -> DenseRule:
        """A layer's; without an activation unless it is hidden."""
        activation = self.activation if hidden else None
        return DenseRule(activation, self.layer_norm_eps, self.variance, self.norm_after_activation)

    @cached_property
    def _rules(self) -> tuple[DenseRule, DenseRule]:
        return self.rule(hidden=True), self.rule(hidden=False)

    def rules(self, layers: int) -> tuple[DenseRule, ...]:
        """Of all layers: the last one is the output layer."""
        hidden, output = self._rules
        return (hidden,) * (layers - 1) + (output,)

    def residual_layers(self, params: MLPParams) -> tuple[bool, ...]:
        """Of all layers, whether each is a residual block."""
        if not self.residual:
            return (False,) * len(params.layers)
        return tuple(self.adds_input(params, i) for i in range(len(params.layers)))

    def adds_input(self, params: MLPParams, layer: int) -> bool:
        """Whether a layer, by its number, is a residual block."""
        rows, columns = params.layers[layer].kernel.shape[-2:]
        return self.residual and 0 < layer < len(params.layers) - 1 and rows == columns


def mlp(
    params: MLPParams, x: Array, options: MLPOptions, kernels: Kernels = reference_kernels
) -> tuple[Array, MLPCache]:
    """y = MLP(x). x (B, I) → y (B, F_out), or (E, B, F_out) for an ensemble.

    jvp, vjp: `mlp_jvp`, `mlp_vjp` (in x) and `mlp_vjp_params` (in the parameters as well).
    Source: official.md, section 1 (utils/networks.py).
    """
    blocks = fused(kernels)
    rules = options.rules(len(params.layers))
    residual = options.residual_layers(params)
    in_one = None if any(residual) else getattr(blocks, "network", None)
    made = None if in_one is None else in_one(x, params, rules)
    if made is not None:
        return made[0], MLPCache(made[1], residual)
    saved = []
    for layer, rule, added in zip(params.layers, rules, residual, strict=True):
        y, cache = blocks.dense(x, DenseParts(*layer.parts()), rule)  # type: ignore[arg-type]
        x = _sum(kernels, added, x, y)
        saved.append(cache)
    return x, MLPCache(tuple(saved), residual)


def _sum(kernels: Kernels, residual: bool, x: Array, block: Array) -> Array:
    """What follows a layer: x + block of a residual one. Its own jvp, and vjp."""
    return kernels(axpy, 1.0, x, block) if residual else block


def mlp_jvp(x_dot: Array, cache: MLPCache, kernels: Kernels = reference_kernels) -> Array:
    """y_dot = (∂MLP/∂x) x_dot."""
    blocks = fused(kernels)
    for block, residual in zip(*cache, strict=True):
        x_dot = _sum(kernels, residual, x_dot, blocks.dense_jvp(x_dot, block))
    return x_dot


def mlp_vjp(y_bar: Array, cache: MLPCache, kernels: Kernels = reference_kernels) -> Array:
    """x_bar = (∂MLP/∂x)ᵀ y_bar, summed over the ensemble members that share x."""
    blocks = fused(kernels)
    in_one = None if any(cache.residual) else getattr(blocks, "network_vjp", None)
    x_bar: Array | None = None if in_one is None else in_one(y_bar, cache.blocks)
    if x_bar is not None:
        return x_bar
    for block, residual in reversed(tuple(zip(*cache, strict=True))):
        y_bar = _sum(kernels, residual, y_bar, blocks.dense_vjp(y_bar, block))
    return y_bar


def mlp_vjp_params(
    y_bar: Array, cache: MLPCache, kernels: Kernels = reference_kernels, input_bar: bool = True
) -> tuple[Array | None, MLPParams]:
    """(x_bar, params_bar): the cotangents of the input and of every parameter, in one sweep.

    input_bar  False leaves x_bar out (None): no parameter's cotangent depends on it, and it is a
               matrix product as large as the first layer's forward
    """
    blocks = fused(kernels)
    in_one = None if any(cache.residual) else getattr(blocks, "network_vjp_params", None)
    made = None if in_one is None else in_one(y_bar, cache.blocks, input_bar)
    if made is not None:
        x_bar, parts_bars, memo = made
        params_bar = MLPParams(tuple([LayerParams(*parts_bar) for parts_bar in parts_bars]))
        params_bar.memo.update(memo)
        return x_bar, params_bar
    layers_bar: list[LayerParams] = []
    x_bar = None
    for i, (block, residual) in reversed(tuple(enumerate(zip(*cache, strict=True)))):
        x_bar, parts_bar = blocks.dense_vjp_params(y_bar, block, input_bar or i > 0)
        layers_bar.append(LayerParams(*parts_bar))
        if x_bar is not None:
            y_bar = x_bar = _sum(kernels, residual, y_bar, x_bar)
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
    for block, residual in zip(*cache, strict=True):
        y_dot, inside = blocks.dense_tangents(x_dot, block)
        x_dot = _sum(kernels, residual, x_dot, y_dot)
        tangents.append(inside)
    if y_bar_dot is None:
        y_bar_dot = kernels(zeros, y_bar)
    for i, (block, residual) in reversed(tuple(enumerate(zip(*cache, strict=True)))):
        x_bar, x_bar_dot = blocks.dense_vjp_jvp(y_bar, y_bar_dot, block, tangents[i], i > 0)
        y_bar_dot = _sum(kernels, residual, y_bar_dot, x_bar_dot)
        if x_bar is not None:
            y_bar = _sum(kernels, residual, y_bar, x_bar)
    return y_bar_dot
