"""A multilayer perceptron on named inputs: what every network of an agent is.

    y = MLP([e₁, e₂, …]),  eᵢ the columns of input i

A network names its inputs in the order in which its first layer reads them. All else is here:
forward, jvp and vjp, the vjp's own jvp, and the gradient in the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.nets.mlp import (
    MLPCache,
    MLPOptions,
    MLPParams,
    mlp,
    mlp_jvp,
    mlp_vjp,
    mlp_vjp_jvp,
    mlp_vjp_params,
)
from qgf_ref.ops.fourier import fourier_features, fourier_features_vjp_params
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.lookup import lookup, lookup_vjp_params
from qgf_ref.ops.structure import (
    cast,
    concat,
    concat_jvp,
    concat_vjp,
    per_row,
    squeeze_last,
    squeeze_last_vjp,
    zeros,
)
from qgf_ref.ops.time_embedding import DIM, Precision, embedded_time, time_embedding_jvp

Input = Literal["obs", "action", "noise", "goal", "time", "raw_time", "label", "step"]
"""obs, action, noise, goal  a matrix (B, columns), as it is
time                      the flow time () or (B,), embedded
raw_time                  the flow time as one column
label                     a row number () or (B,) of the parameters' table: that row
step                      a number () or (B,): what the parameters' encoder makes of it
"""
LABELS, LABEL_COLUMNS = 2, 32
"""Rows of a label's table, o = 0 and o = 1, and its columns."""
FREQUENCIES = 32
"""Of a step's features: half as many as there are features."""
COLUMNS: dict[str, int] = {"time": DIM, "raw_time": 1, "label": LABEL_COLUMNS}
"""Columns of the inputs whose number does not depend on the task."""


class JointCache(NamedTuple):
    """What a forward saves: of each input what its products need, its width, the layers'."""

    inputs: tuple[Any, ...]
    widths: tuple[int, ...]
    layers: MLPCache


class JointMLP:
    """A network y = MLP([e₁, e₂, …]). A subclass is a frozen dataclass with these fields.

    inputs       names of the inputs, in order
    embedding    precision of the embedded time, see `qgf_ref.ops.time_embedding`
    active       the input in which `jvp`, `vjp` and `hvp` differentiate
    scalar       whether the output (…, 1) is squeezed to (…)
    Where LayerNorm follows a layer, the parameters have its scale and offset.
    Raises InputError for an input of another name, and for a label without a table or a step
    without an encoder.
    """

    params: MLPParams
    options: MLPOptions
    kernels: Kernels
    inputs: tuple[Input, ...]
    embedding: Precision = "exact"
    active: ClassVar[Input] = "action"
    scalar: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the names."""
        for name in self.inputs:
            if name not in get_args(Input):
                raise unknown_name("network input", name, get_args(Input))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The parameters' dtype."""
        return self.params.layers[0].kernel.dtype

    def joint(self, **values: Any) -> tuple[Array, JointCache]:
        """y (B, F), (B,) or (E, B), and what the products need, of the inputs by name."""
        rows = values[self.active]
        encoded = [self._encoded(name, values, rows) for name in self.inputs]
        x, widths = self._joined([e for e, _ in encoded])
        y, layers = self._run(mlp, self.params, x, self.options)
        if self.scalar:
            y = self.kernels(squeeze_last, y)
        return y, JointCache(tuple(saved for _, saved in encoded), widths, layers)

    def _encoded(self, name: Input, values: dict[str, Any], rows: Array) -> tuple[Array, Any]:
        """The columns of one input, a row for each of `rows`, and what they save."""
        kernel = self.params.layers[0].kernel
        if name == "time":
            return embedded_time(self.kernels, values["time"], rows, self.embedding, kernel)
        if name == "raw_time":
            time = self.kernels(per_row, values["time"], rows)
            return self.kernels(squeeze_last_vjp, self.kernels(cast, time, kernel)), None
        if name == "label":
            if self.params.table is None:
                raise InputError("a network that takes a label needs parameters with a table")
            return self.kernels(lookup, self.params.table, values["label"], rows)
        if name == "step":
            encoder = self.params.encoder
            if encoder is None or encoder.table is None:
                raise InputError("a network that takes a step needs parameters with an encoder")
            step = self.kernels(cast, self.kernels(per_row, values["step"], rows), rows)
            features, saved = self.kernels(fourier_features, step, encoder.table)
            columns, layers = self._run(mlp, encoder, features, self.options)
            return columns, (saved, layers)
        return values[name], None

    def _joined(self, parts: list[Array]) -> tuple[Array, tuple[int, ...]]:
        if len(parts) == 1:
            return parts[0], (parts[0].shape[-1],)
        return self.kernels(concat, *parts)

    def joint_jvp(self, cache: JointCache, **tangents: Array) -> Array:
        """y_dot along a direction in the columns of the named inputs; the others are held."""
        y_dot: Array = self._run(mlp_jvp, self._direction(cache, tangents), cache.layers)
        return self.kernels(squeeze_last, y_dot) if self.scalar else y_dot

    def jvp(self, x_dot: Array, cache: JointCache) -> Array:
        """y_dot = (∂y/∂x) x_dot, x the active input."""
        return self.joint_jvp(cache, **{self.active: x_dot})

    def vjp(self, y_bar: Array, cache: JointCache) -> Array:
        """x_bar = (∂y/∂x)ᵀ y_bar, x the active input; summed over the members of an ensemble."""
        x_bar = self._run(mlp_vjp, self._y_bar(y_bar), cache.layers)
        return self._part(self.active, x_bar, cache)

    def vjp_inputs(self, y_bar: Array, cache: JointCache) -> tuple[Array, ...]:
        """(∂y/∂eᵢ)ᵀ y_bar for every input's columns, in order."""
        return self._parts(self._run(mlp_vjp, self._y_bar(y_bar), cache.layers), cache)

    def hvp(self, x_dot: Array, y_bar: Array, cache: JointCache) -> Array:
        """x_bar_dot = (Σ y_bar ∂²y/∂x²) x_dot, x the active input: the jvp of `vjp`, y_bar held.

        Cost: one sweep of jvps and one backward that carries a cotangent and its tangent, no
        forward. Source: method.md, section 6.
        """
        return self._part(self.active, self._hvp(cache, y_bar, {self.active: x_dot}), cache)

    def joint_hvp(self, cache: JointCache, y_bar: Array, **tangents: Array) -> tuple[Array, ...]:
        """The jvp of `vjp_inputs` along a direction in the named inputs, y_bar held."""
        return self._parts(self._hvp(cache, y_bar, tangents), cache)

    def vjp_params(self, y_bar: Array, cache: JointCache) -> MLPParams:
        """params_bar = (∂y/∂params)ᵀ y_bar, summed over the batch, a table's by scatter-add."""
        learned = [name for name in self.inputs if name in ("label", "step")]
        y_bar, kernels = self._y_bar(y_bar), self.kernels
        x_bar, params_bar = mlp_vjp_params(y_bar, cache.layers, kernels, input_bar=bool(learned))
        if x_bar is None:
            return params_bar
        table_bar = encoder_bar = None
        for name in learned:
            columns_bar = self._part(name, x_bar, cache)
            saved = cache.inputs[self.inputs.index(name)]
            if name == "label":
                table_bar = kernels(lookup_vjp_params, columns_bar, saved)
            else:
                encoder_bar = self._encoder_bar(columns_bar, *saved)
        return MLPParams(params_bar.layers, table_bar, encoder_bar)

    def _encoder_bar(self, columns_bar: Array, features: Any, layers: MLPCache) -> MLPParams:
        """The gradient in the encoder's parameters, its frequencies among them."""
        features_bar, bar = mlp_vjp_params(columns_bar, layers, self.kernels)
        assert features_bar is not None
        frequencies_bar = self.kernels(fourier_features_vjp_params, features_bar, features)
        return MLPParams(bar.layers, frequencies_bar)

    def _hvp(self, cache: JointCache, y_bar: Array, tangents: dict[str, Array]) -> Array:
        x_dot = self._direction(cache, tangents)
        x_bar_dot: Array = self._run(mlp_vjp_jvp, x_dot, self._y_bar(y_bar), cache.layers)
        return x_bar_dot

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`mlp` or a product of it, by kernels that run it as a whole (whole(function, *args),
        whose caches are theirs) if these do.
        """
        whole = getattr(self.kernels, "whole", None)
        return function(*args, self.kernels) if whole is None else whole(function, *args)

    def _direction(self, cache: JointCache, tangents: dict[str, Array]) -> Array:
        """x_dot of the whole input, zero where no tangent is given."""
        like = tangents.get(self.active, next(iter(tangents.values())))
        parts = [
            tangents[name] if name in tangents else self.kernels(zeros, like, width)
            for name, width in reversed(list(zip(self.inputs, cache.widths)))
        ]
        return parts[0] if len(parts) == 1 else self.kernels(concat_jvp, tuple(reversed(parts)))

    def _y_bar(self, y_bar: Array) -> Array:
        return self.kernels(squeeze_last_vjp, y_bar) if self.scalar else y_bar

    def _part(self, name: Input, x_bar: Array, cache: JointCache) -> Array:
        if len(self.inputs) == 1:
            return x_bar
        return self.kernels(concat_vjp, x_bar, cache.widths, self.inputs.index(name))

    def _parts(self, x_bar: Array, cache: JointCache) -> tuple[Array, ...]:
        return tuple(self._part(name, x_bar, cache) for name in self.inputs)


class NoisyActionMLP(JointMLP):
    """A network of observation, noisy action and flow time."""

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, JointCache]:
        """y, and what the products need. obs (B, O), action (B, D), time () or (B,) in [0, 1]."""
        return self.joint(obs=obs, action=action, time=time)

    def jvp_time(self, action_dot: Array, time_dot: Array, cache: JointCache) -> Array:
        """y_dot along a direction in (a, t): action_dot (B, D), time_dot (B,)."""
        name: Input = "time" if "time" in self.inputs else "raw_time"
        if name == "time":
            saved = cache.inputs[self.inputs.index(name)]
            columns_dot = self.kernels(time_embedding_jvp, time_dot, saved)
        else:
            columns_dot = self.kernels(squeeze_last_vjp, time_dot)
        return self.joint_jvp(cache, **{"action": action_dot, name: columns_dot})
