"""What a noise predictor may get wrong inside, forwards and backwards."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.nets.noise import NoisePredictor
from qgf_ref.ops.activations import activation, activation_vjp
from qgf_ref.ops.fourier import fourier_features, fourier_features_vjp_params


class ActivatedEncoder(NoisePredictor):
    """MLP₀ ends in an activation."""

    def _encoded(self, name: Any, values: dict[str, Any], rows: Array) -> tuple[Array, Any]:
        columns, saved = super()._encoded(name, values, rows)
        if name != "step":
            return columns, saved
        active, cache = activation(columns, self.options.activation)
        return active, (*saved, cache)

    def _encoder_bar(self, columns_bar: Array, features: Any, layers: Any, *cache: Any) -> Any:
        return super()._encoder_bar(activation_vjp(columns_bar, *cache), features, layers)


def _swapped_halves(features: Array) -> Array:
    return np.roll(features, features.shape[-1] // 2, axis=-1)


SIN_FIRST: dict[Any, Any] = {
    fourier_features: lambda k, w: (
        _swapped_halves(fourier_features(k, w)[0]), fourier_features(k, w)[1]
    ),
    fourier_features_vjp_params: lambda bar, cache: fourier_features_vjp_params(
        _swapped_halves(bar), cache
    ),
}  # fmt: skip
"""Primitives, and what is run instead: sines before cosines."""
WITHOUT_2PI: dict[Any, Any] = {
    fourier_features: lambda k, w: fourier_features(k / k.dtype.type(2 * np.pi), w)
}
"""Forwards only."""
