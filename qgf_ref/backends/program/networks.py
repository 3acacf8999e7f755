"""What interpreters take for granted of networks, and what time adds to their first layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.program.program import FIELD, Op
from qgf_ref.backends.program.recorder import NotRecordable
from qgf_ref.backends.program.registers import IN_1, NETWORK, OP, Code
from qgf_ref.nets.critic import MLPCritic, RobustCritic
from qgf_ref.nets.joint import COLUMNS
from qgf_ref.nets.noise import NoisePredictor
from qgf_ref.nets.one_step import OneStepPolicy
from qgf_ref.nets.velocity import ConditionalVelocity, MLPVelocity
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.ops.time_embedding import time_embedding

EXACTLY = (
    MLPVelocity, ConditionalVelocity, MLPCritic, RobustCritic, NoisePredictor, OneStepPolicy,
)  # fmt: skip
"""What a subclass does otherwise, an interpreter does not know."""
KNOWN_INPUTS = {"obs", "action", "noise", "time", "raw_time", "label", "step"}


def input_columns(network: Any, O: int, D: int) -> dict[str, slice]:
    """The rows of the first kernel that belong to each input."""
    first, columns = 0, {}
    encoder = network.params.encoder
    widths = {"obs": O, "action": D, "noise": D, **COLUMNS}
    if encoder is not None:
        widths["step"] = encoder.out_features
    for name in network.inputs:
        width = widths.get(name, 0)
        columns[name] = slice(first, first + width)
        first += width
    return columns


def time_constants(networks: Sequence[Any], code: Code, wide: int) -> Array:
    """What the time adds to a network's first layer, for every (network, time) of the code: flat,
    `wide` elements each. The product of its embedding, of itself or, of a step, of what its encoder
    makes of it, and, of CFGRL, the label's.

    Like a linear layer's input, the embedding is rounded to the kernel's dtype; the product is not
    rounded before its end. Raises NotRecordable where rows have times of their own, and no
    embedding.
    """
    field = networks[FIELD]
    for row in code.table[(code.table[:, OP] == Op.FORWARD) & (code.table[:, IN_1] >= 0)]:
        if not {"raw_time", "step"}.isdisjoint(networks[row[NETWORK]].inputs):
            raise NotRecordable("times of rows that are not embedded")
    constants = np.zeros((len(code.times), wide), field.dtype)
    for number in {number: None for number, _ in code.times}:
        network = networks[number]
        rows = [n for n, (asked, _) in enumerate(code.times) if asked == number]
        columns = input_columns(network, field.obs_dim, field.action_dim)
        kernel = network.params.layers[0].kernel
        name = next(name for name in ("time", "raw_time", "step") if name in columns)
        weight = kernel[columns[name]]
        times = np.array([code.times[n][1] for n in rows])
        embedding = times[:, None]
        if name == "time":
            embedding, _ = time_embedding(times, len(weight), network.embedding)
        elif name == "step":
            embedding = replace(network, kernels=reference_kernels).encoded_step(times)
        total = embedding.astype(kernel.dtype).astype(np.float64) @ weight.astype(np.float64)
        if "label" in columns:
            label = network.params.table[network.condition].astype(np.float64)
            total = total + label @ kernel[columns["label"]].astype(np.float64)
        constants[rows, : total.shape[1]] = total
    return constants.ravel()


def require_plain(network: Any, O: int, D: int, dtype: np.dtype[Any]) -> None:
    """Raise NotRecordable unless the interpreters' picture of the network is the right one.

    O, D, dtype  the field's observation and action width, and the dtype that all must have
    """
    if type(network) not in EXACTLY or not {*network.inputs} <= KNOWN_INPUTS:
        raise NotRecordable(f"a {type(network).__name__}")
    params, options = network.params, network.options
    if dtype.name not in REAL_DTYPES or {array.dtype for array in params.arrays()} != {dtype}:
        raise NotRecordable("networks of several dtypes, or neither float32 nor float64")
    columns = max(part.stop for part in input_columns(network, O, D).values())
    ensemble = type(network) is MLPCritic
    output = 1 if network.scalar else D
    if (params.ensemble is not None) != ensemble or (params.in_features, params.out_features) != (
        columns,
        output,
    ):
        raise NotRecordable("an ensemble of policies, or a critic that is not E times (s, a) → 1")
    if O < 1 or len(params.layers) < 2 or params.layers[-1].scale is not None:
        raise NotRecordable(
            "a network without observations or hidden layers, or with LayerNorm at its end"
        )
    if options.activation not in ACTIVATIONS or options.variance not in ("fast", "two_pass"):
        raise NotRecordable("an activation or a variance that does not exist")
    if not all(np.isfinite(array).all() for array in params.arrays()):
        raise NotRecordable("parameters that are not finite")
    if "label" in network.inputs and not isinstance(network.condition, int):
        raise NotRecordable("a label for each row")
