"""The one multilayer perceptron: parameters, forward, and its products.

Every hidden layer is linear → LayerNorm (where its parameters have one) → activation; the output
layer is linear alone. The leading ensemble axis of `qgf_ref.ops.linear` carries over: an ensemble
is an MLP whose parameters have that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.ops import layer_norm as ln
from qgf_ref.ops.activations import ActivationCache, activation, activation_jvp, activation_vjp
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.linear import LinearCache, linear, linear_jvp, linear_vjp, linear_vjp_params


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
    """Parameters of an MLP: hidden layers, then the output layer. Also holds their gradients."""

    layers: tuple[LayerParams, ...]

    def named(self) -> Iterator[tuple[str, Array]]:
        """('layers.0.kernel', array), … in a fixed order."""
        for i, layer in enumerate(self.layers):
            for field, part in zip(fields(layer), layer.parts(), strict=True):
                if part is not None:
                    yield f"layers.{i}.{field.name}", part

    def arrays(self) -> tuple[Array, ...]:
        """The arrays alone, in the order of `named`."""
        return tuple(array for _, array in self.named())

    def map(self, f: Callable[..., Array], *others: MLPParams) -> MLPParams:
        """f applied to corresponding arrays of this and the other parameter sets."""
        rest = [other.arrays() for other in others]
        return self.replace(f(*leaf) for leaf in zip(self.arrays(), *rest, strict=True))

    def replace(self, arrays: Iterator[Array] | tuple[Array, ...]) -> MLPParams:
        """The same structure around other arrays, given in the order of `named`."""
        values = iter(arrays)
        return MLPParams(
            tuple(
                LayerParams(*(None if part is None else next(values) for part in layer.parts()))  # type: ignore[arg-type]
                for layer in self.layers
            )
        )

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


@dataclass(frozen=True)
class LayerCache:
    """What one layer's forward saved; LayerNorm and activation only where the layer has them."""

    linear: LinearCache
    norm: ln.LayerNormCache | None
    activation: ActivationCache | None


MLPCache = tuple[LayerCache, ...]


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
    caches = []
    last = len(params.layers) - 1
    for i, layer in enumerate(params.layers):
        x, linear_cache = kernels(linear, x, layer.kernel, layer.bias)
        norm_cache = activation_cache = None
        if layer.scale is not None and layer.offset is not None:
            x, norm_cache = kernels(
                ln.layer_norm,
                x,
                layer.scale,
                layer.offset,
                options.layer_norm_eps,
                options.variance,
            )
        if i < last:
            x, activation_cache = kernels(activation, x, options.activation)
        caches.append(LayerCache(linear_cache, norm_cache, activation_cache))
    return x, tuple(caches)


def mlp_jvp(x_dot: Array, cache: MLPCache, kernels: Kernels = reference_kernels) -> Array:
    """y_dot = (∂MLP/∂x) x_dot."""
    for layer in cache:
        x_dot = kernels(linear_jvp, x_dot, layer.linear)
        if layer.norm is not None:
            x_dot = kernels(ln.layer_norm_jvp, x_dot, layer.norm)
        if layer.activation is not None:
            x_dot = kernels(activation_jvp, x_dot, layer.activation)
    return x_dot


def mlp_vjp(y_bar: Array, cache: MLPCache, kernels: Kernels = reference_kernels) -> Array:
    """x_bar = (∂MLP/∂x)ᵀ y_bar, summed over the ensemble members that share x."""
    return _reverse_sweep(y_bar, cache, kernels, params_bar=None)


def mlp_vjp_params(
    y_bar: Array, cache: MLPCache, kernels: Kernels = reference_kernels
) -> tuple[Array, MLPParams]:
    """(x_bar, params_bar): the cotangents of the input and of every parameter, in one sweep."""
    layers_bar: list[LayerParams] = []
    x_bar = _reverse_sweep(y_bar, cache, kernels, params_bar=layers_bar)
    return x_bar, MLPParams(tuple(reversed(layers_bar)))


def _reverse_sweep(
    y_bar: Array, cache: MLPCache, kernels: Kernels, params_bar: list[LayerParams] | None
) -> Array:
    for layer in reversed(cache):
        scale_bar = offset_bar = None
        if layer.activation is not None:
            y_bar = kernels(activation_vjp, y_bar, layer.activation)
        if layer.norm is not None:
            if params_bar is not None:
                scale_bar, offset_bar = kernels(ln.layer_norm_vjp_params, y_bar, layer.norm)
            y_bar = kernels(ln.layer_norm_vjp, y_bar, layer.norm)
        if params_bar is not None:
            kernel_bar, bias_bar = kernels(linear_vjp_params, y_bar, layer.linear)
            params_bar.append(LayerParams(kernel_bar, bias_bar, scale_bar, offset_bar))
        y_bar = kernels(linear_vjp, y_bar, layer.linear)
    return y_bar
