"""A program on many rows: cuBLAS products, and kernels of our own for all that is between them.

The launches of a call are always the same ones, so that they can be captured as a graph.
"""

from __future__ import annotations

from typing import Any

from qgf_ref.backends.cupy.cublas import Matrices
from qgf_ref.backends.cupy.layout import LINE, Net, Space
from qgf_ref.backends.cupy.structs import VALUES, arguments, struct
from qgf_ref.backends.cupy.sweeps import Sweeps
from qgf_ref.backends.cupy.tables import Tables
from qgf_ref.backends.program.program import NOISE, WEIGHT, Kind, Op
from qgf_ref.backends.program.registers import NETWORK, OP
from qgf_ref.ops.time_embedding import DIM


class ManyRows(Sweeps):
    """The launches of a program for a number of rows.

    draws  rows of each observation, which follow each other
    """

    def __init__(self, tables: Tables, rows: int, draws: int) -> None:
        super().__init__(tables, rows, draws)
        weights, code, space = self.weights, tables.code, Space(self.itemsize)
        self.asks = frozenset(Op(op) for op in code.table[:, OP])
        bent = Op.HVP in self.asks
        for register, kind in enumerate(code.registers):
            self.offsets.append(space.take(rows * tables.width(register)))
            if kind >= len(Kind):
                self._saved(space, weights.nets[kind - len(Kind)])
        most, seen = tables.most, -(-rows // draws)
        wide = most * rows * weights.widest
        self.spare = [space.take(wide) for _ in range(4 if bent else 2)]
        self.tangents = space.take(rows * self.tangent_width if bent else 0)
        self.pre = space.take(seen * weights.pre_columns)
        self.embedding = space.take(rows * DIM)
        self.ints = space.take(-(-4 * most * (2 * rows + 1) // self.itemsize))
        self.obs_at = space.take(seen * weights.obs_dim)
        self.noise_at, self.weight_at = self.offsets[NOISE], self.offsets[WEIGHT]
        self.flags = space.take(LINE // self.itemsize)
        self.bytes = space.size * self.itemsize

    def bind(self, memory: Any) -> None:
        """Lie in this array of bytes from now on; None: nowhere."""
        super().bind(memory)
        if memory is None:
            return
        self.values = struct(
            VALUES, base=self.at(0), offsets=self.offset_array.data.ptr,
            kinds=self.tables.kinds.data.ptr, rows=self.rows, D=self.weights.action_dim,
            E=self.weights.members,
        )  # fmt: skip

    @classmethod
    def bytes_of(cls, tables: Tables, rows: int, draws: int) -> int:
        """How large the memory would have to be."""
        return cls(tables, rows, draws).bytes

    def results(self) -> list[Any]:
        """The program's results, in the workspace."""
        return [
            self.view(self.offsets[register], self.tables.shape(register, self.rows))
            for register in self.tables.code.results
        ]

    def run(self) -> None:
        """Start everything, in order."""
        weights, seen = self.weights, -(-self.rows // self.draws)
        self.device.clear(self.at(self.flags), LINE)
        self._product(
            (seen, weights.pre_columns, weights.obs_dim),
            Matrices(self.at(self.obs_at), weights.obs_dim),
            Matrices(weights.at(weights.pre_kernel), weights.pre_columns),
            Matrices(self.at(self.pre), weights.pre_columns),
        )
        sweeps = {
            Op.FORWARD: self._forward,
            Op.VJP: self._vjp,
            Op.JVP: self._jvp,
            Op.HVP: self._hvp,
        }
        since = 0
        for n, code in enumerate(self.tables.code.table):
            if code[OP] <= Op.HVP:
                self._between(since, n)
                since = n
                sweeps.get(Op(code[OP]), self._hvp)(weights.nets[int(code[NETWORK])], code)
        self._between(since, len(self.tables.code.table))

    def _between(self, first: int, last: int) -> None:
        """Instructions first … last − 1, of which the first may be a network's, already run."""
        if first == last:
            return
        table, numbers = self.tables.table.data.ptr, self.tables.numbers.data.ptr
        args = self.values, table, numbers, first, last, self.at(self.flags)
        self.device.rows(self.key, "glue", self.rows, arguments(args))

    def _saved(self, space: Space, net: Net) -> None:
        for size in self._saved_sizes(net):
            space.take(size)
