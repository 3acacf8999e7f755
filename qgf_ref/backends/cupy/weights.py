"""The networks' parameters in device memory: one array, and tables that say what is where.

As for every interpreter, observations' share of all first layers is one product, made once, and the
time's is a constant; the vjp in the action needs the action's rows of the first kernels alone.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.cupy.device import Device, device
from qgf_ref.backends.cupy.layout import LAYER, NETWORK, Net, Space, padded
from qgf_ref.backends.cupy.sources import SEVERAL
from qgf_ref.backends.program.networks import input_columns, require_plain
from qgf_ref.backends.program.program import CRITIC, FIELD
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.dense import order_of


@dataclass(frozen=True)
class DeviceWeights:
    """flat: all parameters, on the device; layers, networks: the tables, on the host.

    pre_kernel     (O, pre_columns), and pre_transpose (pre_columns, padded O): offsets in flat of
                   the observations' share of all first layers, without their bias
    """

    device: Device
    flat: Any
    dtype: np.dtype[Any]
    activation: str
    nets: dict[int, Net]
    layers: Array
    networks: Array
    eps: Array
    pre_kernel: int
    pre_transpose: int
    pre_columns: int
    obs_dim: int
    action_dim: int

    @property
    def members(self) -> int:
        """E."""
        return self.nets[CRITIC].members

    @property
    def key(self) -> tuple[str, str]:
        """Which kernels: dtype and activation, or `SEVERAL`."""
        return self.dtype.name, self.activation

    @property
    def widest(self) -> int:
        """The stride of the widest row of hidden values or an action."""
        widths = [width for net in self.nets.values() for width in net.widths]
        return padded(max(self.action_dim, *widths), self.dtype)

    def at(self, offset: int) -> int:
        """The address of what begins at an offset in flat."""
        return int(self.flat.data.ptr) + offset * self.dtype.itemsize


def gather(networks: Sequence[Any], used: Set[int], tf32: bool = False) -> DeviceWeights:
    """The networks that a program uses, uploaded. Raises NotRecordable."""
    field = networks[FIELD]
    O, D, dtype = field.obs_dim, field.action_dim, field.dtype
    for number in used:
        require_plain(networks[number], O, D, dtype)
    activations = {networks[number].options.activation for number in used}
    activation = activations.pop() if len(activations) == 1 else SEVERAL
    builder = _Builder(dtype)
    rows: list[list[int]] = []
    table = np.zeros((len(networks), len(NETWORK)), np.int64)
    eps = np.array([network.options.layer_norm_eps for network in networks])
    nets: dict[int, Net] = {}
    for number in sorted(used):
        network = networks[number]
        params, options = network.params, network.options
        members, depth = params.ensemble or 1, len(params.layers)
        columns, fast = input_columns(network, O, D), options.variance == "fast"
        code = ACTIVATIONS.index(options.activation)
        table[number] = len(rows), depth, members, fast, network.scalar, code
        layers = []
        for l, layer in enumerate(params.layers):
            hidden = l < depth - 1
            norm = order_of(layer.scale is not None, hidden, options.norm_after_activation)
            shape = {"NORM": norm, "RESIDUAL": options.adds_input(params, l)}
            first = columns if l == 0 else None
            layers.append(builder.layer(layer, first, network.scalar and not hidden, shape))
        rows += [
            [int(value) for value in layers[l][e]] for e in range(members) for l in range(depth)
        ]
        nets[number] = Net(
            number, members, tuple(int(x.kernel.shape[-1]) for x in params.layers[:-1]),
            params.out_features, bool(network.scalar), fast, code, float(eps[number]),
            tuple(tuple(rows[table[number, 0] + l]) for l in range(depth)),
        )  # fmt: skip
    observed = np.concatenate(builder.observed, axis=1)
    pre_kernel, pre_transpose = builder.add(observed), builder.rows(observed.T)
    here = device(tf32)
    with here.working():
        flat = here.array(builder.flat())
    return DeviceWeights(
        here, flat, dtype, activation, nets, np.array(rows, np.int64), table, eps,
        pre_kernel, pre_transpose, observed.shape[1], O, D,
    )  # fmt: skip


class _Builder:
    """Collects arrays in one, each member's after the one before it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype, self.space = dtype, Space(dtype.itemsize)
        self.parts: list[tuple[int, Array]] = []
        self.observed: list[Array] = []
        self.pre = 0

    def add(self, array: Array) -> int:
        at = self.space.take(array.size)
        self.parts.append((at, np.ascontiguousarray(array, self.dtype).ravel()))
        return at

    def rows(self, array: Array) -> int:
        """An array whose rows are padded with zeros."""
        more = padded(array.shape[-1], self.dtype) - array.shape[-1]
        return self.add(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)]))

    def layer(
        self, layer: Any, columns: dict[str, slice] | None, scalar: bool, shape: dict[str, Any]
    ) -> Array:
        """The layer table's rows of all members. columns: of a first layer, by input; scalar: the
        one output is a dot product with a row; shape: further columns of the table, by name.
        """
        kernel, bias = layer.kernel, layer.bias
        if kernel.ndim == 2:
            kernel, bias = kernel[None], bias[None]
        members, _, out = kernel.shape
        scale = np.ones_like(bias) if layer.scale is None else layer.scale.reshape(members, out)
        offset = np.zeros_like(bias) if layer.offset is None else layer.offset.reshape(members, out)
        values = {"PRE": np.full(members, -1), "TIMED": np.full(members, -1)}
        stride = padded(out, self.dtype)
        if columns is not None:
            values["PRE"] = self.pre + stride * np.arange(members)
            self.pre += stride * members
            for one in kernel[:, columns["obs"]]:
                self.observed.append(np.pad(one, [(0, 0), (0, stride - out)]))
            if "time" in columns:
                timed = kernel[:, columns["time"]]
                values["TIMED"] = self.rows(timed) + stride * timed.shape[1] * np.arange(members)
            kernel = kernel[:, columns["action"]]
        inner = kernel.shape[1]
        turned = np.swapaxes(kernel, 1, 2)
        in_stride = padded(inner, self.dtype)
        values["TRANSPOSE"] = self.rows(turned) + in_stride * out * np.arange(members)
        values["KERNEL"] = values["TRANSPOSE"]
        if not scalar:
            values["KERNEL"] = self.rows(kernel) + stride * inner * np.arange(members)
        for name, array in (("BIAS", bias), ("SCALE", scale), ("OFFSET", offset)):
            values[name] = self.rows(array) + stride * np.arange(members)
        for name, value in {"IN": inner, "OUT": out, **shape}.items():
            values[name] = np.full(members, int(value))
        return np.stack([values[name] for name in LAYER], axis=1)

    def flat(self) -> Array:
        flat = np.zeros(self.space.size, self.dtype)
        for at, part in self.parts:
            flat[at : at + part.size] = part
        return flat
