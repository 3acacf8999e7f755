"""The dense block: linear, then LayerNorm and activation in the rule's order, where it has them.

The composition is written here once, from the primitives that `kernels` runs. Accelerated kernels
may bring the whole block (`FusedKernels`); `fused` gives the block of either kind of kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from qgf_ref.arrays import Array
from qgf_ref.ops import layer_norm as ln
from qgf_ref.ops.activations import (
    activation,
    activation_jvp,
    activation_vjp,
    activation_vjp_jvp,
)
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.linear import LinearCache, linear, linear_jvp, linear_vjp, linear_vjp_params


class DenseParts(NamedTuple):
    """Parameters of one block, or their cotangents, as in `qgf_ref.nets.mlp.LayerParams`.

    kernel (I, F), bias (F,); scale and offset (F,) where it has a LayerNorm, else None. With a
    leading E on every array for an ensemble.
    """

    kernel: Array
    bias: Array
    scale: Array | None = None
    offset: Array | None = None

    @property
    def normed(self) -> bool:
        """Whether the block has a LayerNorm."""
        return self.scale is not None and self.offset is not None


class DenseRule(NamedTuple):
    """What the parameters do not say.

    activation             its name; None where there is none
    layer_norm_eps         inside LayerNorm's square root
    variance               LayerNorm's formula, see `qgf_ref.ops.layer_norm.layer_norm`
    norm_after_activation  y = LayerNorm(f(x W + b)) in place of f(LayerNorm(x W + b)); says
                           nothing of a block that lacks either
    """

    activation: str | None
    layer_norm_eps: float = ln.EPS
    variance: ln.Variance = "fast"
    norm_after_activation: bool = False


@dataclass(frozen=True, eq=False)
class Sublayer:
    """A part of the block: a primitive of one array, and its rules.

    forward(x, *arguments(parts, rule)) gives y and a cache; jvp, vjp and vjp_jvp take the cache
    last. vjp_params: the cotangents of those `parameters`, in order.
    """

    forward: Callable[..., Any]
    arguments: Callable[[DenseParts, DenseRule], tuple[Any, ...]]
    jvp: Callable[..., Array]
    vjp: Callable[..., Array]
    vjp_jvp: Callable[..., Array] | None = None
    vjp_params: Callable[..., tuple[Array, Array]] | None = None
    parameters: tuple[str, ...] = ()


LINEAR = Sublayer(
    linear,
    lambda parts, rule: (parts.kernel, parts.bias),
    linear_jvp,
    linear_vjp,
    vjp_params=linear_vjp_params,
    parameters=("kernel", "bias"),
)
NORM = Sublayer(
    ln.layer_norm,
    lambda parts, rule: (parts.scale, parts.offset, rule.layer_norm_eps, rule.variance),
    ln.layer_norm_jvp,
    ln.layer_norm_vjp,
    ln.layer_norm_vjp_jvp,
    ln.layer_norm_vjp_params,
    ("scale", "offset"),
)
ACTIVATION = Sublayer(
    activation,
    lambda parts, rule: (rule.activation,),
    activation_jvp,
    activation_vjp,
    activation_vjp_jvp,
)


ORDERS = NO_NORM, NORM_FIRST, NORM_AFTER = range(3)
"""What fused blocks are told: no LayerNorm; f(LayerNorm(z)); LayerNorm(f(z)), which has both."""


def order_of(normed: bool, active: bool, after: bool) -> int:
    """Of `ORDERS`: of a block with a LayerNorm, an activation, and whether LayerNorm is last."""
    return (NORM_AFTER if active and after else NORM_FIRST) if normed else NO_NORM


def sublayers(parts: DenseParts, rule: DenseRule) -> tuple[Sublayer, ...]:
    """The block as data: its parts in the order of the forward, the linear one first."""
    there = {NORM: parts.normed, ACTIVATION: rule.activation is not None}
    order = (ACTIVATION, NORM) if rule.norm_after_activation else (NORM, ACTIVATION)
    return LINEAR, *(sublayer for sublayer in order if there[sublayer])


class DenseCache(NamedTuple):
    """What the composed block's forward saved: each sublayer, in order, and its cache."""

    saved: tuple[tuple[Sublayer, Any], ...]

    @property
    def linear(self) -> LinearCache:
        """Of the first sublayer: its input and kernel."""
        return cast(LinearCache, self.saved[0][1])


DenseTangents = tuple[Array, ...]
"""The tangents at which a block's products are differentiated: at each sublayer's input."""


class FusedKernels(Protocol):
    """Kernels that bring the dense block. Shapes are those of `qgf_ref.ops.linear`.

    A cache belongs to the kernels that made it.
    """

    def __call__(self, primitive: Any, *args: Any, **kwargs: Any) -> Any:
        """What the primitive returns, as `Kernels`."""
        ...

    def dense(self, x: Array, parts: DenseParts, rule: DenseRule) -> tuple[Array, Any]:
        """y = f(LayerNorm(x W + b)), in the rule's order, and what the products need."""
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
        """y: the sublayers' forwards, one after another."""
        saved = []
        for sublayer in sublayers(parts, rule):
            x, cache = self.kernels(sublayer.forward, x, *sublayer.arguments(parts, rule))
            saved.append((sublayer, cache))
        return x, DenseCache(tuple(saved))

    def dense_jvp(self, x_dot: Array, cache: DenseCache) -> Array:
        """y_dot: the sublayers' jvps in the forward's order."""
        return self.dense_tangents(x_dot, cache)[0]

    def dense_vjp(self, y_bar: Array, cache: DenseCache) -> Array:
        """x_bar: the sublayers' vjps in the reverse order."""
        for sublayer, saved in reversed(cache.saved):
            y_bar = self.kernels(sublayer.vjp, y_bar, saved)
        return y_bar

    def dense_vjp_params(
        self, y_bar: Array, cache: DenseCache, input_bar: bool = True
    ) -> tuple[Array | None, DenseParts]:
        """x_bar, and the cotangents of kernel, bias, scale, offset."""
        bars: dict[str, Array] = {}
        for sublayer, saved in reversed(cache.saved):
            if sublayer.vjp_params is not None:
                of_sublayer = self.kernels(sublayer.vjp_params, y_bar, saved)
                bars.update(zip(sublayer.parameters, of_sublayer, strict=True))
            if sublayer is LINEAR and not input_bar:
                return None, DenseParts(**bars)
            y_bar = self.kernels(sublayer.vjp, y_bar, saved)
        return y_bar, DenseParts(**bars)

    def dense_tangents(self, x_dot: Array, cache: DenseCache) -> tuple[Array, DenseTangents]:
        """y_dot, and on the way to it the tangents inside the block."""
        tangents = []
        for sublayer, saved in cache.saved:
            tangents.append(x_dot)
            x_dot = self.kernels(sublayer.jvp, x_dot, saved)
        return x_dot, tuple(tangents)

    def dense_vjp_jvp(
        self,
        y_bar: Array,
        y_bar_dot: Array,
        cache: DenseCache,
        tangents: DenseTangents,
        input_bar: bool = True,
    ) -> tuple[Array | None, Array]:
        """x_bar as of `dense_vjp`, and x_bar_dot: each sublayer's vjp beside its derivative."""
        kernels = self.kernels
        (_, first), *rest = cache.saved
        for n in reversed(range(len(rest))):
            sublayer, saved = rest[n]
            assert sublayer.vjp_jvp is not None
            y_bar_dot = kernels(sublayer.vjp_jvp, tangents[n + 1], y_bar, y_bar_dot, saved)
            if input_bar or n > 0:  # of the first layer, y_bar ends here
                y_bar = kernels(sublayer.vjp, y_bar, saved)
        x_bar = kernels(linear_vjp, y_bar, first) if input_bar else None
        return x_bar, kernels(linear_vjp, y_bar_dot, first)


def fused(kernels: Kernels) -> FusedKernels:
    """`kernels` if they bring the dense block, else the block composed of their primitives."""
    # not isinstance: of a protocol it takes as long as a small layer
    return cast(FusedKernels, kernels) if hasattr(kernels, "dense") else Composed(kernels)
