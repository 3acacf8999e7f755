"""A network's sweeps over a batch, as launches: forward, vjp, jvp, Hessian product."""

from __future__ import annotations

from typing import Any

from qgf_ref.backends.cupy.cublas import Matrices
from qgf_ref.backends.cupy.layout import Net, Space
from qgf_ref.backends.cupy.structs import BLOCK, SEED, arguments, struct
from qgf_ref.backends.cupy.tables import Tables
from qgf_ref.backends.cupy.workspace import Workspace
from qgf_ref.backends.program.program import Op
from qgf_ref.backends.program.registers import IN_0, IN_1, IN_2, OUT_0, OUT_1, TIME
from qgf_ref.ops.dense import NO_NORM
from qgf_ref.ops.time_embedding import DIM, TIME_SCALE

TILE_THREADS, TILE_DEPTH = 256, 8
"""Of `packed_product`, whose tile has 16 · 2 packs a side."""
NO_SEED = struct(SEED, numbers=0, head=0)


class Sweeps(Workspace):
    """What a program's networks are asked for, on all rows. Offsets are of the workspace.

    offsets    of the registers                 pre        observations' share of the first layers
    spare      two hidden values of all members, and with Hessian products their tangents
    tangents   those of a Hessian product       embedding  of rows' times
    ints       counts, chosen rows, positions   asks       the program's operations
    """

    spare: list[int]
    tangents: int
    pre: int
    embedding: int
    ints: int
    asks: frozenset[Op]

    def __init__(self, tables: Tables, rows: int, draws: int) -> None:
        super().__init__(tables, rows, draws)
        self.most, self.key = tables.most, tables.weights.key
        self.offsets: list[int] = []

    def _saved_sizes(self, net: Net) -> list[int]:
        """Of what a forward saves: z of each hidden layer, then its moments."""
        each = net.members * self.rows
        return [each * self._stride(w) for w in net.widths] + [2 * each for _ in net.widths]

    def _places(self, register: int, net: Net) -> tuple[list[int], list[int]]:
        """Where z and the moments of each hidden layer are kept."""
        space = Space(self.itemsize)
        space.size = self.offsets[register]
        places = [self.at(space.take(size)) for size in self._saved_sizes(net)]
        return places[: len(net.widths)], places[len(net.widths) :]

    def _product(
        self,
        sizes: tuple[int, int, int],
        left: Matrices,
        right: Matrices,
        out: Matrices,
        **how: Any,
    ) -> None:
        self.device.product(self.dtype, sizes, left, right, out, **how)

    def _matrix(self, net: Net, l: int, transposed: bool = False) -> Matrices:
        """The layer's matrices of all members; transposed: as the vjp has them."""
        layer = net.layer(l)
        stride = self._stride(layer["OUT"])
        at, turned = (self.weights.at(layer[name]) for name in ("KERNEL", "TRANSPOSE"))
        return Matrices(at, stride, layer["IN"] * stride, transposed, turned)

    def _block(self, net: Net, l: int) -> Any:
        """What kernels are told of a hidden layer."""
        layer, stride = net.layer(l), self._stride(net.widths[l])
        at = {name: self.weights.at(layer[name.upper()]) for name in ("bias", "scale", "offset")}
        return struct(
            BLOCK, rows=self.rows, capacity=self.rows, columns=net.widths[l], stride=stride,
            parameter_stride=stride, members=net.members, norm=layer["NORM"], fast=net.fast,
            activation=net.activation, eps=net.eps, **at,
        )  # fmt: skip

    def _hidden(self, at: int, columns: int) -> Matrices:
        """Hidden values of all members, at an address."""
        stride = self._stride(columns)
        return Matrices(at, stride, self.rows * stride)

    def _forward(self, net: Net, code: Any) -> None:
        weights, rows = self.weights, self.rows
        saved = self._places(code[OUT_1], net) if code[OUT_1] >= 0 else None
        source = Matrices(self.at(self.offsets[code[IN_0]]), weights.action_dim)
        inner, out = weights.action_dim, self.at(self.offsets[code[OUT_0]])
        head = net.layer(len(net.widths))
        for l, width in enumerate(net.widths):
            z = saved[0][l] if saved else self.at(self.spare[l % 2])
            y = self.at(self.spare[0]) if saved else z
            to = self._hidden(z, width)
            self._product(
                (rows, width, inner), source, self._matrix(net, l), to, members=net.members
            )
            shared = timed = 0
            if l == 0:
                shared = self.at(self.pre + net.layer(0)["PRE"])
                timed = self._time(net, code, to)
            end = net.scalar and l == len(net.widths) - 1
            keep = saved is not None and l == 0
            carry = source.at if net.layer(l)["RESIDUAL"] else 0
            args = (
                self._block(net, l), z, 0 if end else y, saved[1][l] if saved else 0,
                shared, weights.pre_columns, self.draws, timed, int(keep),
                carry, weights.at(head["KERNEL"]) if end else 0,
                weights.at(head["BIAS"]) if end else 0, out if end else 0,
            )  # fmt: skip
            self.device.rows(self.key, "block_forward", net.members * rows, arguments(args))
            source, inner = self._hidden(y, width), width
        if not net.scalar:
            self._last(net, source, out)
            bias = struct(
                BLOCK, rows=rows, capacity=rows, columns=net.outputs, stride=net.outputs,
                parameter_stride=self._stride(net.outputs), members=1, norm=NO_NORM, fast=0,
                activation=-1, eps=0.0, bias=weights.at(head["BIAS"]), scale=0, offset=0,
            )  # fmt: skip
            args = (bias, out, out, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
            self.device.rows(self.key, "block_forward", rows, arguments(args))

    def _last(self, net: Net, source: Matrices, out: int) -> None:
        """A field's last product, to an action's register."""
        l, D = len(net.widths), net.outputs
        to = Matrices(out, D)
        self._product((self.rows, D, net.widths[-1]), source, self._matrix(net, l), to)

    def _time(self, net: Net, code: Any, z: Matrices) -> int:
        """The address of what the time adds to the first layer; times of rows are added to z."""
        if code[TIME] >= 0:
            times = self.tables.times
            return int(times.data.ptr) + int(code[TIME]) * times.shape[1] * self.itemsize
        if code[IN_1] < 0:
            return 0
        embedding = self.at(self.embedding)
        args = (
            self.at(self.offsets[code[IN_1]]), self.rows, DIM // 2,
            self.tables.frequencies.data.ptr, float(TIME_SCALE), int(self.tables.precise),
            embedding,
        )  # fmt: skip
        count = self.rows * (DIM // 2)
        self.device.each(self.key, "embed_times", count, arguments(args))
        width = net.widths[0]
        timed = Matrices(self.weights.at(net.layer(0)["TIMED"]), self._stride(width))
        self._product((self.rows, width, DIM), Matrices(embedding, DIM), timed, z, add=True)
        return 0

    def _chosen(self, net: Net, bar: int) -> tuple[int, int, int]:
        """counts, chosen, position: of the rows with a cotangent; 0, 0, 0: of all."""
        if not (net.scalar and net.members > 1 and Op.REDUCE_MIN in self.asks):
            return 0, 0, 0
        rows, most = self.rows, self.most
        counts = self.at(self.ints)
        chosen, position = counts + 4 * most, counts + 4 * most * (rows + 1)
        self.device.clear(counts, 4 * most)
        grid, args = (-(-rows // 256), net.members), (bar, rows, net.members)
        self.device.launch(
            self.key, "choose_rows", grid, 256, arguments((*args, counts, chosen, position))
        )
        return counts, chosen, position

    def _back(self, net: Net, l: int, source: int, to: int, counts: int, add: bool = False) -> None:
        """source (members, rows, widths[l]) times the layer's transpose, padded rows again; add: to
        what is there.
        """
        layer, right = net.layer(l), self._matrix(net, l, True)
        self._packed(net, layer["OUT"], layer["IN"], source, to, counts, right, add)

    def _ahead(self, net: Net, l: int, source: int, to: int, counts: int) -> None:
        """source (members, rows, IN), padded rows, times the layer's matrix."""
        layer = net.layer(l)
        self._packed(net, layer["IN"], layer["OUT"], source, to, counts, self._matrix(net, l))

    def _packed(
        self, net: Net, inner: int, columns: int, source: int, to: int, counts: int,
        right: Matrices, add: bool = False,
    ) -> None:  # fmt: skip
        """A product of the members' rows that take part; counts 0: of all, by cuBLAS."""
        left, out, rows = self._hidden(source, inner), self._hidden(to, columns), self.rows
        if not counts:
            sizes = rows, columns, inner
            self._product(sizes, left, right, out, members=net.members, add=add)
            return
        at = right.plain if right.transposed else right.at
        tile = 32 * 16 // self.itemsize
        grid = -(-columns // tile), -(-rows // tile), net.members
        strides = left.stride, self._stride(columns), out.stride
        args = source, at, to, counts, rows, rows, inner, columns, *strides, int(add)
        room = 4 * TILE_DEPTH * (tile + 16 // self.itemsize) * self.itemsize
        self.device.launch(self.key, "packed_product", grid, TILE_THREADS, arguments(args), room)

    def _sum(self, net: Net, part: int, position: int, out: int) -> None:
        """The members' cotangents of the action, added up into its register."""
        D = self.weights.action_dim
        args = part, self.rows, self.rows, D, self._stride(D), net.members, position, out
        self.device.each(self.key, "sum_members", self.rows * D, arguments(args))

    def _seed(self, net: Net, bar: int) -> Any:
        head = net.layer(len(net.widths))["KERNEL"]
        return struct(SEED, numbers=bar, head=self.weights.at(head))

    def _vjp(self, net: Net, code: Any) -> None:
        bar, out = (self.at(self.offsets[code[place]]) for place in (IN_0, OUT_0))
        z, stats = self._places(code[IN_1], net)
        counts, chosen, position = self._chosen(net, bar)
        here, there = self.at(self.spare[0]), self.at(self.spare[1])
        seed = self._seed(net, bar)
        if not net.scalar:
            seed = NO_SEED
            D, l = net.outputs, len(net.widths)
            matrix, to = self._matrix(net, l, transposed=True), self._hidden(here, net.widths[-1])
            self._product((self.rows, net.widths[-1], D), Matrices(bar, D), matrix, to)
        for l in reversed(range(len(net.widths))):
            # a residual block's cotangent stays where it is, or is put there; the product is added
            residual, seeded = net.layer(l)["RESIDUAL"], seed is not NO_SEED
            into, carried = (there, here if seeded else 0) if residual else (here, 0)
            args = self._block(net, l), counts, chosen, z[l], stats[l], seed, here, into, carried
            self.device.rows(self.key, "block_back", net.members * self.rows, arguments(args))
            if residual:
                self._back(net, l, there, here, counts, add=True)
            else:
                self._back(net, l, here, there, counts)
                here, there = there, here
            seed = NO_SEED
        self._sum(net, here, position, out)

    def _jvp(self, net: Net, code: Any) -> None:
        dot, out = (self.at(self.offsets[code[place]]) for place in (IN_0, OUT_0))
        z, stats = self._places(code[IN_1], net)
        source, inner = Matrices(dot, self.weights.action_dim), self.weights.action_dim
        for l, width in enumerate(net.widths):
            at = self.at(self.spare[l % 2])
            to = self._hidden(at, width)
            self._product((self.rows, width, inner), source, self._matrix(net, l), to)
            carry = source.at if net.layer(l)["RESIDUAL"] else 0
            args = self._block(net, l), 0, 0, z[l], stats[l], at, carry, at
            self.device.rows(self.key, "block_tangent", self.rows, arguments(args))
            source, inner = to, width
        self._last(net, source, out)

    def _hvp(self, net: Net, code: Any) -> None:
        dot, bar, out = (self.at(self.offsets[code[place]]) for place in (IN_0, IN_1, OUT_0))
        z, stats = self._places(code[IN_2], net)
        counts, chosen, position = self._chosen(net, bar)
        rows, D, E = self.rows, self.weights.action_dim, net.members
        here, there, dot_here, dot_there = map(self.at, self.spare)
        gathered = (dot, rows, rows, D, self._stride(D), E, counts, chosen, here)
        self.device.each(self.key, "gather_rows", E * rows * D, arguments(gathered))
        source, tangents, top = here, [], self.at(self.tangents)
        for l, width in enumerate(net.widths):
            tangents.append(top)
            self._ahead(net, l, source, top, counts)
            if l < len(net.widths) - 1:
                carry = source if net.layer(l)["RESIDUAL"] else 0
                args = self._block(net, l), counts, chosen, z[l], stats[l], top, carry, there
                self.device.rows(self.key, "block_tangent", E * rows, arguments(args))
            source, there, here = there, here, there
            top += E * rows * self._stride(width) * self.itemsize
        seed, none = self._seed(net, bar), NO_SEED
        for l in reversed(range(len(net.widths))):
            last, residual = l == len(net.widths) - 1, net.layer(l)["RESIDUAL"]
            # as in `_vjp`
            to, dot_to = (there, dot_there) if residual else (here, dot_here)
            bent = (
                self._block(net, l), counts, chosen, z[l], stats[l], tangents[l],
                seed if last else none, here, 0 if last else dot_here, to if l else 0, dot_to,
                here if residual and last else 0,
            )  # fmt: skip
            self.device.rows(self.key, "block_bent", E * rows, arguments(bent))
            if residual:
                self._back(net, l, there, here, counts, add=True)
                # the seed's derivative is 0
                self._back(net, l, dot_there, dot_here, counts, add=not last)
                continue
            if l:
                self._back(net, l, here, there, counts)
            self._back(net, l, dot_here, dot_there, counts)
            here, there, dot_here, dot_there = there, here, dot_there, dot_here
        self._sum(net, dot_here, position, out)
