"""A program on few rows: one cooperative launch that runs all of it.

A launch for each layer would take longer than the layer. Here the blocks stay, and meet once a
layer; the weights are read from the second-level cache.
"""

from __future__ import annotations

from typing import Any

from qgf_ref.backends.cupy.device import INTERPRETER
from qgf_ref.backends.cupy.layout import LINE, Space
from qgf_ref.backends.cupy.structs import CALL, arguments, struct
from qgf_ref.backends.cupy.tables import Tables
from qgf_ref.backends.cupy.workspace import Workspace
from qgf_ref.backends.program.program import Kind, Op
from qgf_ref.ops.time_embedding import DIM, TIME_SCALE

FEW_ROWS = 16
"""Up to so many rows run like this, where their hidden values fit a block's shared memory: every
block computes what is between the products for all rows."""
MACHINE_BYTES, THREADS = 512, {4: 384, 8: 256}
"""As in persistent.cu."""
WARP = 32


class FewRows(Workspace):
    """The launch of a program for a number of rows. draws: as of `ManyRows`."""

    def __init__(self, tables: Tables, rows: int, draws: int) -> None:
        super().__init__(tables, rows, draws)
        weights, itemsize = self.weights, self.itemsize
        self.high = 2 if tables.code.asks(Op.HVP) else 1
        self.room, self.own, self.offsets = self._places()
        seen, space = -(-rows // draws), self.own["scratch"]
        self.z_size = tables.most * self.high * rows * weights.widest
        self.edge_size = tables.most * rows * weights.action_dim
        self.places = {
            "pre": space.take(seen * weights.pre_columns),
            "z": space.take(2 * self.z_size),
            "edge": space.take(2 * self.edge_size),
            "tangents": space.take(rows * self.tangent_width if self.high == 2 else 0),
        }
        self.obs_at, self.noise_at = (
            space.take(size) for size in (seen * weights.obs_dim, rows * weights.action_dim)
        )
        self.weight_at = space.take(rows)
        results = tables.code.results
        self.answers = space.take(rows * sum(tables.width(r) for r in results))
        self.flags = space.take(LINE // itemsize)
        outside = 0 if self.inside else self.own["values"].size * self.device.processors
        self.own_at = space.take(outside)
        self.bytes = space.size * itemsize

    @staticmethod
    def fits(tables: Tables, rows: int) -> bool:
        """Whether so many rows can run like this."""
        device = tables.weights.device
        if rows > FEW_ROWS or not device.cooperative:
            return False
        few = FewRows(tables, rows, 1)
        return MACHINE_BYTES + few.room["end"] * few.itemsize <= device.shared_bytes

    @property
    def inside(self) -> bool:
        """Whether the blocks' values are in shared memory, too."""
        most = self.device.shared_bytes
        size = (self.room["end"] + self.own["values"].size) * self.itemsize
        return MACHINE_BYTES + size <= most

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        size = self.room["end"] + (self.own["values"].size if self.inside else 0)
        return MACHINE_BYTES + size * self.itemsize

    def _places(self) -> tuple[dict[str, int], dict[str, Space], list[int]]:
        """Of shared memory; of a block's values and of what forwards save; of each register."""
        tables, rows, itemsize = self.tables, self.rows, self.itemsize
        shared = Space(itemsize)
        shared.take(tables.most * self.high * rows * self.weights.widest)
        room = {"sums": shared.take(WARP), "embedding": shared.take(rows * DIM)}
        room["ints"] = shared.take(-(-4 * tables.most * (rows + 1) // itemsize))
        room["end"] = shared.size
        spaces = {"values": Space(itemsize), "scratch": Space(itemsize)}
        offsets = []
        for register, kind in enumerate(tables.code.registers):
            if kind < len(Kind):
                offsets.append(spaces["values"].take(rows * tables.width(register)))
            else:
                net = self.weights.nets[kind - len(Kind)]
                size = net.members * rows * sum(map(self._stride, net.widths))
                offsets.append(spaces["scratch"].take(size))
        return room, spaces, offsets

    def results(self) -> list[Any]:
        """The program's results, in the workspace."""
        views, at = [], self.answers
        for register in self.tables.code.results:
            views.append(self.view(at, self.tables.shape(register, self.rows)))
            at += self.rows * self.tables.width(register)
        return views

    def run(self) -> None:
        """Start it."""
        tables, weights = self.tables, self.weights
        self.device.clear(self.at(self.flags), LINE)
        pointers = {
            name: getattr(tables, name).data.ptr
            for name in (
                "table", "kinds", "results", "layers", "networks", "numbers", "eps", "frequencies",
                "times",
            )
        }  # fmt: skip
        call = struct(
            CALL, **pointers, **self.places, offsets=self.offset_array.data.ptr,
            flat=weights.flat.data.ptr, obs=self.at(self.obs_at), noise=self.at(self.noise_at),
            weight=self.at(self.weight_at), scratch=self.at(0),
            own=0 if self.inside else self.at(self.own_at), answers=self.at(self.answers),
            status=self.at(self.flags), arrived=self.at(self.flags) + LINE // 2,
            instructions=len(tables.code.table), result_count=len(tables.code.results),
            rows=self.rows, draws=self.draws, D=weights.action_dim, E=weights.members,
            obs_dim=weights.obs_dim, half=DIM // 2, precise=tables.precise, members=tables.most,
            pre_kernel=weights.pre_transpose, pre_columns=weights.pre_columns,
            time_stride=weights.widest, own_size=self.own["values"].size,
            hidden_stride=weights.widest, high=self.high, z_size=self.z_size,
            edge_size=self.edge_size, sums=self.room["sums"], embedding=self.room["embedding"],
            ints=self.room["ints"], own_shared=self.room["end"], time_scale=TIME_SCALE,
        )  # fmt: skip
        self.device.launch(
            weights.key, INTERPRETER, (self.device.processors,), THREADS[self.itemsize],
            arguments((call,)), self.shared, cooperative=True,
        )  # fmt: skip
