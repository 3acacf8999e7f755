"""A program in device memory: what both ways of running it read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qgf_ref.backends.cupy.weights import DeviceWeights
from qgf_ref.backends.program.networks import time_constants
from qgf_ref.backends.program.program import FIELD, Kind
from qgf_ref.backends.program.registers import Code
from qgf_ref.ops.time_embedding import DIM, angular_frequencies


class Tables:
    """code, and its weights; the tables' copies on the device.

    times    (n, weights.widest): what time adds to a first layer
    precise  how rows' times are embedded
    """

    def __init__(self, code: Code, weights: DeviceWeights, networks: Sequence[Any]) -> None:
        self.code, self.weights = code, weights
        precision = networks[FIELD].embedding
        self.precise = precision == "exact"
        times = time_constants(networks, code, weights.widest).reshape(-1, weights.widest)
        frequencies = angular_frequencies(DIM // 2, precision).astype(np.float64)
        here = weights.device
        with here.working():
            self.table = here.array(code.table)
            self.numbers = here.array(np.append(code.numbers, 0.0))
            self.kinds = here.array(np.array(code.registers, np.int64))
            self.results = here.array(np.array(code.results, np.int64))
            self.layers, self.networks = here.array(weights.layers), here.array(weights.networks)
            self.eps, self.frequencies = here.array(weights.eps), here.array(frequencies)
            self.times = here.array(times if len(times) else np.zeros((1, 1), weights.dtype))
        self.most = max(net.members for net in weights.nets.values())

    def width(self, register: int) -> int:
        """Numbers of a row of a register; 0 of what a forward saved."""
        kind = self.code.registers[register]
        if kind >= len(Kind):
            return 0
        widths = {Kind.ACTION: self.weights.action_dim, Kind.MEMBERS: self.weights.members}
        return widths.get(Kind(kind), 1)

    def shape(self, register: int, rows: int) -> tuple[int, ...]:
        """(rows, D), (E, rows) or (rows,)."""
        width, kind = self.width(register), Kind(self.code.registers[register])
        return {Kind.ACTION: (rows, width), Kind.MEMBERS: (width, rows)}.get(kind, (rows,))
