"""Where everything lies of one way to run a program, for a number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.backends.cupy.layout import padded
from qgf_ref.backends.cupy.tables import Tables


class Workspace:
    """Places in a sampler's memory, by offsets in numbers of the networks' dtype.

    Whatever a run reads it has written: other numbers of rows have the same memory in between.

    obs_at, noise_at, weight_at  where the inputs go; flags: a line, whose first integer becomes 1
    when something was not finite
    bytes    how large the memory must be
    offsets  of the program's registers
    """

    memory: Any = None
    offset_array: Any = None
    offsets: list[int]
    obs_at: int
    noise_at: int
    weight_at: int
    flags: int
    bytes: int

    def __init__(self, tables: Tables, rows: int, draws: int) -> None:
        self.tables, self.weights, self.rows, self.draws = tables, tables.weights, rows, draws
        self.device, self.dtype = self.weights.device, self.weights.dtype
        self.itemsize = int(self.dtype.itemsize)
        nets = self.weights.nets.values()
        hidden = [net.members * sum(map(self._stride, net.widths)) for net in nets]
        self.tangent_width = max(hidden)

    def bind(self, memory: Any) -> None:
        """Lie in this array of bytes from now on; None: nowhere."""
        self.memory = memory
        if self.offset_array is None and memory is not None:
            self.offset_array = self.device.array(np.array(self.offsets, np.int64))

    def _stride(self, columns: int) -> int:
        return padded(columns, self.dtype)

    def at(self, offset: int) -> int:
        """The address of an offset."""
        return int(self.memory.data.ptr) + offset * self.itemsize

    def view(self, offset: int, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Part of it as an array."""
        kind = np.dtype(dtype or self.dtype)
        first, size = offset * self.itemsize, int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return self.memory[first : first + size].view(kind).reshape(shape)

    def load(self, obs: Any, noise: Any, weight: Any) -> None:
        """Copy the inputs to where the launches read them: CuPy arrays or NumPy's."""
        places = (self.obs_at, obs), (self.noise_at, noise), (self.weight_at, weight)
        for offset, value in places:
            target = self.view(offset, value.shape)
            if isinstance(value, np.ndarray):
                target.set(np.ascontiguousarray(value, self.dtype))
            else:
                target[...] = value

    @property
    def failed(self) -> bool:
        """Whether something was not finite. Waits for the device."""
        return bool(self.view(self.flags, (1,), np.int32).get()[0])
