"""The dense block: linear, then LayerNorm, then activation, each where the layer has it.

The composition is written here once, from the primitives that `kernels` runs. Accelerated kernels
may bring the whole block (`FusedKernels`); `fused` gives the block of either kind of kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from qgf_ref.arrays import Array
from qgf_ref.ops import layer_norm as ln
from qgf_ref.ops.activations import (
    ActivationCache,
    activation,
    activation_jvp,
    activation_vjp,
    activation_vjp_jvp,
)
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.linear import LinearCache, linear, linear_jvp, linear_vjp, linear_vjp_params


class DenseParts(NamedTuple):
    """Parameters of one block, or their cotangents, as in `qgf_ref.nets.mlp.LayerParams`.

    kernel (I, F), bias (F,); scale and offset (F,) where LayerNorm follows, else None. With a
    leading E on every array for an ensemble.
    """

    kernel: Array
    bias: Array
    scale: Array | None = None
    offset: Array | None = None


class DenseRule(NamedTuple):
    """What the parameters do not say; `activation` is None where none follows."""

    activation: str | None
    layer_norm_eps: float = ln.EPS
    variance: ln.Variance = "fast"


class DenseCache(NamedTuple):
    """What the composed block's forward saved; LayerNorm and activation only where it has them."""

    linear: LinearCache
    norm: ln.LayerNormCache | None
    activation: ActivationCache | None


class DenseTangents(NamedTuple):
    """The tangents at which a block's products are differentiated; None where it has no such part.

    norm at the LayerNorm's input, activation at the activation's.
    """

    norm: Array | None
    activation: Array | None


class FusedKernels(Protocol):
    """Kernels that bring the dense block. Shapes are those of `qgf_ref.ops.linear`.

    A cache belongs to the kernels that made it.
    """

    def __call__(self, primitive: Any, *args: Any, **kwargs: Any) -> Any:
        """What the primitive returns, as `Kernels`."""
        ...

    def dense(self, x: Array, parts: DenseParts, rule: DenseRule) -> tuple[Array, Any]:
        """y = f(LayerNorm(x W + b)), and what the products need."""
        ...

    def dense_jvp(self, x_dot: Array, cache: Any) -> Array:
        """y_dot = (∂y/∂x) x_dot."""
        ...

    def dense_vjp(self, y_bar: Array, cache: Any) -> Array:
        """x_bar = (∂y/∂x)ᵀ y_bar, summed over the ensemble members that share x."""
        ...

    def dense_vjp_params(
        self, y_bar: Array, cache: Any, input_bar: bool = True
    ) -> tuple[Array | None, DenseParts]:
        """x_bar, or None if it is not asked for, and the parameters' cotangents."""
        ...

    def dense_tangents(self, x_dot: Array, cache: Any) -> tuple[Array, Any]:
        """y_dot, and the tangents that `dense_vjp_jvp` needs."""
        ...

    def dense_vjp_jvp(
        self, y_bar: Array, y_bar_dot: Array, cache: Any, tangents: Any, input_bar: bool = True
    ) -> tuple[Array | None, Array]:
        """x_bar, or None if it is not asked for, and its derivative x_bar_dot."""
        ...


@dataclass(frozen=True)
class Composed:
    """The dense block from the primitives of `kernels`: the reference of every fused one."""

    kernels: Kernels

    def __call__(self, primitive: Any, *args: Any, **kwargs: Any) -> Any:
        """What the primitive returns."""
        return self.kernels(primitive, *args, **kwargs)

    def dense(self, x: Array, parts: DenseParts, rule: DenseRule) -> tuple[Array, DenseCache]:
        """y = f(γ·x̂ + β), x̂ = LayerNorm of x W + b: `linear`, `layer_norm`, `activation`."""
        kernels = self.kernels
        y, linear_cache = kernels(linear, x, parts.kernel, parts.bias)
        norm_cache = activation_cache = None
        if parts.scale is not None and parts.offset is not None:
            y, norm_cache = kernels(
                ln.layer_norm, y, parts.scale, parts.offset, rule.layer_norm_eps, rule.variance
            )
        if rule.activation is not None:
            y, activation_cache = kernels(activation, y, rule.activation)
        return y, DenseCache(linear_cache, norm_cache, activation_cache)

    def dense_jvp(self, x_dot: Array, cache: DenseCache) -> Array:
        """y_dot: the primitives' jvps in the forward's order."""
        return self.dense_tangents(x_dot, cache)[0]

    def dense_vjp(self, y_bar: Array, cache: DenseCache) -> Array:
        """x_bar: the primitives' vjps in the reverse order."""
        if cache.activation is not None:
            y_bar = self.kernels(activation_vjp, y_bar, cache.activation)
        if cache.norm is not None:
            y_bar = self.kernels(ln.layer_norm_vjp, y_bar, cache.norm)
        return self.kernels(linear_vjp, y_bar, cache.linear)

    def dense_vjp_params(
        self, y_bar: Array, cache: DenseCache, input_bar: bool = True
    ) -> tuple[Array | None, DenseParts]:
        """x_bar, and the cotangents of kernel, bias, scale, offset."""
        kernels = self.kernels
        scale_bar = offset_bar = None
        if cache.activation is not None:
            y_bar = kernels(activation_vjp, y_bar, cache.activation)
        if cache.norm is not None:
            scale_bar, offset_bar = kernels(ln.layer_norm_vjp_params, y_bar, cache.norm)
            y_bar = kernels(ln.layer_norm_vjp, y_bar, cache.norm)
        kernel_bar, bias_bar = kernels(linear_vjp_params, y_bar, cache.linear)
        x_bar = kernels(linear_vjp, y_bar, cache.linear) if input_bar else None
        return x_bar, DenseParts(kernel_bar, bias_bar, scale_bar, offset_bar)

    def dense_tangents(self, x_dot: Array, cache: DenseCache) -> tuple[Array, DenseTangents]:
        """y_dot, and on the way to it the tangents inside the block."""
        norm_dot = activation_dot = None
        y_dot = self.kernels(linear_jvp, x_dot, cache.linear)
        if cache.norm is not None:
            norm_dot = y_dot
            y_dot = self.kernels(ln.layer_norm_jvp, y_dot, cache.norm)
        if cache.activation is not None:
            activation_dot = y_dot
            y_dot = self.kernels(activation_jvp, y_dot, cache.activation)
        return y_dot, DenseTangents(norm_dot, activation_dot)

    def dense_vjp_jvp(
        self,
        y_bar: Array,
        y_bar_dot: Array,
        cache: DenseCache,
        tangents: DenseTangents,
        input_bar: bool = True,
    ) -> tuple[Array | None, Array]:
        """x_bar as of `dense_vjp`, and x_bar_dot: each primitive's vjp beside its derivative."""
        kernels = self.kernels
        if cache.activation is not None:
            y_bar_dot = kernels(
                activation_vjp_jvp,
                cast(Array, tangents.activation),
                y_bar,
                y_bar_dot,
                cache.activation,
            )
            y_bar = kernels(activation_vjp, y_bar, cache.activation)
        if cache.norm is not None:
            y_bar_dot = kernels(
                ln.layer_norm_vjp_jvp, cast(Array, tangents.norm), y_bar, y_bar_dot, cache.norm
            )
            # of the first layer, y_bar ends here
            y_bar = kernels(ln.layer_norm_vjp, y_bar, cache.norm) if input_bar else y_bar
        x_bar = kernels(linear_vjp, y_bar, cache.linear) if input_bar else None
        return x_bar, kernels(linear_vjp, y_bar_dot, cache.linear)


def fused(kernels: Kernels) -> FusedKernels:
    """`kernels` if they bring the dense block, else the block composed of their primitives."""
    # not isinstance: of a protocol it takes as long as a small layer
    return cast(FusedKernels, kernels) if hasattr(kernels, "dense") else Composed(kernels)
