"""The two things that Numba cannot say itself: a register tile of a matrix product, and 2ⁿ.

Both are short pieces of LLVM IR. The tile keeps a `TILE_ROWS × 2`-vector block of the product in
registers while it runs along K: it is the only inner loop of every matrix product here.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import register_jitable
from numba.np.arrayobj import populate_array

intrinsic: Any = numba_intrinsic
"""Numba's, whose type says nothing of how compiled code calls the result."""


PROBE = """
define void @probe(<16 x float>* %at) {
  %x = load <16 x float>, <16 x float>* %at, align 4
  %y = fadd <16 x float> %x, %x
  store <16 x float> %y, <16 x float>* %at, align 4
  ret void
}
"""


def _vector_bytes() -> int:
    """The widest vectors that Numba compiles for: it is asked, as what the processor has may be
    restricted (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES), and wider vectors would then be spilled.
    """
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    target = binding.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=name, features=features)
    text = machine.emit_assembly(binding.parse_assembly(PROBE))
    return 64 if "%zmm" in text else 32 if "%ymm" in text else 16


VECTOR_BYTES = _vector_bytes()
TILE_ROWS = 6 if VECTOR_BYTES == 32 else 8
"""Rows of the full tile: its 2·rows accumulators, two vectors of B and one of A fill the registers
(32 of 64 bytes, 16 of 32 bytes). Measured with 64-byte vectors, float32, one core: 8 rows 116
GFLOP/s, 12 rows 87, 14 rows 115."""
PANEL_VECTORS = 2
LINE = 64
"""Bytes of a cache line."""
AHEAD = 8192
"""Bytes of B that the tile of several rows asks for before it needs them: weights are mostly
streamed from beyond the second-level cache (benchmarks/NOTES.md)."""


@register_jitable
def panel_width(itemsize: int) -> int:
    """Columns of one packed panel of B, for elements of `itemsize` bytes."""
    return PANEL_VECTORS * VECTOR_BYTES // itemsize


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    vector = x.type
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    name = f"llvm.fma.v{vector.count}f{bits}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, [x, y, z])


def _ask_for(builder: Any, pointer: Any) -> None:
    """Prefetch the cache line at `pointer`. Past the end of an array nothing happens."""
    byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte.type, number, number, number])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte.type], kind)
    read, soon, data = (ir.Constant(number, n) for n in (0, 3, 1))
    builder.call(function, [byte, read, soon, data])


def _tile(rows: int) -> Any:
    """The tile of `rows` rows: C[m, :] = Σ_k A[m, k]·B[k, :] over one panel's columns.

    A[m, k] is a[a_at + m·a_row + k·a_col]; B[k, :] starts at b[b_at + k·b_row]; C[m, :] is written
    at c[c_at + m·c_row]. Every element is one chain of fused multiply-adds in the order of k, so a
    row's result depends neither on `rows` nor on its neighbours.
    """

    @intrinsic
    def tile(typing, a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, length):
        signature = types.void(a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, length)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            element = context.get_data_type(sig.args[0].dtype)
            size = 4 if isinstance(element, ir.FloatType) else 8
            lanes = VECTOR_BYTES // size
            vector = ir.VectorType(element, lanes)
            index = ir.IntType(64)
            lane = ir.IntType(32)

            def number(n: int) -> Any:
                return ir.Constant(index, n)

            def start(array: int, offset: int) -> Any:
                made = context.make_array(sig.args[array])(context, builder, args[array])
                return builder.gep(made.data, [args[offset]])

            def vectors(pointer: Any) -> list[Any]:
                first = builder.bitcast(pointer, vector.as_pointer())
                return [builder.gep(first, [number(j)]) for j in range(PANEL_VECTORS)]

            a_start, b_start, c_start = start(0, 1), start(4, 5), start(7, 8)
            a_row, a_col, b_row, c_row, length = (args[i] for i in (2, 3, 6, 9, 10))
            a_rows = [builder.gep(a_start, [builder.mul(a_row, number(m))]) for m in range(rows)]
            entry = builder.block
            loop = builder.append_basic_block("tile.k")
            done = builder.append_basic_block("tile.done")
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(index)
            k.add_incoming(number(0), entry)
            zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * lanes)
            sums = [[builder.phi(vector) for _ in range(PANEL_VECTORS)] for _ in range(rows)]
            b_at = builder.gep(b_start, [builder.mul(k, b_row)])
            b_k = [builder.load(pointer, align=size) for pointer in vectors(b_at)]
            if rows > 1:
                later = builder.gep(b_at, [number(AHEAD // size)])
                for line in range(0, PANEL_VECTORS * lanes, LINE // size):
                    _ask_for(builder, builder.gep(later, [number(line)]))
            undefined = ir.Constant(vector, ir.Undefined)
            everywhere = ir.Constant(ir.VectorType(lane, lanes), [ir.Constant(lane, 0)] * lanes)
            a_offset = builder.mul(k, a_col)
            for m in range(rows):
                a_mk = builder.load(builder.gep(a_rows[m], [a_offset]))
                a_mk = builder.insert_element(undefined, a_mk, ir.Constant(lane, 0))
                a_mk = builder.shuffle_vector(a_mk, undefined, everywhere)
                for j in range(PANEL_VECTORS):
                    old = sums[m][j]
                    new = _fma(builder, a_mk, b_k[j], old)
                    old.add_incoming(zero, entry)
                    old.add_incoming(new, loop)
                    sums[m][j] = new
            following = builder.add(k, number(1))
            k.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, length), loop, done)

            builder.position_at_end(done)
            for m in range(rows):
                pointers = vectors(builder.gep(c_start, [builder.mul(c_row, number(m))]))
                for j in range(PANEL_VECTORS):
                    builder.store(sums[m][j], pointers[j], align=size)
            return context.get_dummy_value()

        return signature, codegen

    return tile


tile_full, tile_4, tile_2, tile_1 = _tile(TILE_ROWS), _tile(4), _tile(2), _tile(1)


@intrinsic
def transpose_square(typing, w, w_at, w_row, out, out_at, out_row):
    """out[j, i] = w[i, j] for a square of as many rows as a vector has numbers, in registers.

    w[i, j] is w[w_at + i·w_row + j], out[j, i] is out[out_at + j·out_row + i].
    """
    signature = types.void(w, w_at, w_row, out, out_at, out_row)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = context.get_data_type(sig.args[0].dtype)
        size = 4 if isinstance(element, ir.FloatType) else 8
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(element, lanes)

        def rows(array: int) -> list[Any]:
            made = context.make_array(sig.args[array])(context, builder, args[array])
            start = builder.gep(made.data, [args[array + 1]])
            steps = (ir.Constant(ir.IntType(64), i) for i in range(lanes))
            at = (builder.gep(start, [builder.mul(args[array + 2], step)]) for step in steps)
            return [builder.bitcast(pointer, vector.as_pointer()) for pointer in at]

        def mask(picks: list[int]) -> Any:
            numbers = [ir.Constant(ir.IntType(32), pick) for pick in picks]
            return ir.Constant(ir.VectorType(ir.IntType(32), lanes), numbers)

        held = [builder.load(pointer, align=size) for pointer in rows(0)]
        step = 1
        while step < lanes:  # blocks of `step` off the diagonal change places, in every pair
            odd = [j // step % 2 == 1 for j in range(lanes)]
            first = mask([j - step + lanes if odd[j] else j for j in range(lanes)])
            second = mask([j + lanes if odd[j] else j + step for j in range(lanes)])
            for i in range(lanes):
                if i // step % 2 == 0:
                    one, other = held[i], held[i + step]
                    held[i] = builder.shuffle_vector(one, other, first)
                    held[i + step] = builder.shuffle_vector(one, other, second)
            step *= 2
        for value, pointer in zip(held, rows(3), strict=True):
            builder.store(value, pointer, align=size)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def power_of_two(typing, shifted):
    """2ⁿ, where `shifted` is n + 1.5·2²³ (float32) or n + 1.5·2⁵² (float64).

    The sum's last bits are n in two's complement; moved into the exponent's place they are 2ⁿ.
    n must be a normal number's exponent.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        single = sig.args[0] == types.float32
        integer = ir.IntType(32 if single else 64)
        fraction, bias = (23, 127) if single else (52, 1023)
        bits = builder.bitcast(args[0], integer)
        biased = builder.add(bits, ir.Constant(integer, bias))
        moved = builder.shl(biased, ir.Constant(integer, fraction))
        return builder.bitcast(moved, context.get_value_type(sig.args[0]))

    return shifted(shifted), codegen


@intrinsic
def view(typing, array, start, length):
    """array[start : start + length] without the reference counting that a slice costs.

    array is 1-D and contiguous; the caller keeps it alive.
    """
    result = types.Array(array.dtype, 1, "C")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = context.make_array(sig.args[0])(context, builder, args[0])
        made = context.make_array(sig.return_type)(context, builder)
        size = context.get_constant(types.intp, context.get_abi_sizeof(source.data.type.pointee))
        populate_array(
            made,
            data=builder.gep(source.data, [args[1]]),
            shape=[args[2]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return made._getvalue()

    return result(array, types.intp, types.intp), codegen


@intrinsic
def memory_at(typing, address, length, example):
    """The `length` numbers at an address, as `view` of an array like `example`.

    Python has many arrays to pass, and a number is passed in less time than an array; the caller
    keeps what lies there alive.
    """
    result = types.Array(example.dtype, 1, "C")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = context.make_array(sig.return_type)(context, builder)
        element = context.get_data_type(sig.return_type.dtype)
        size = context.get_constant(types.intp, context.get_abi_sizeof(element))
        populate_array(
            made,
            data=builder.inttoptr(args[0], element.as_pointer()),
            shape=[args[1]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return made._getvalue()

    return result(types.intp, types.intp, example), codegen


@intrinsic
def address_of(typing, array):
    """Where the first element of an array lies."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = context.make_array(sig.args[0])(context, builder, args[0])
        return builder.ptrtoint(source.data, ir.IntType(64))

    return types.intp(array), codegen


@intrinsic
def like(typing, value, example):
    """The number `value` in the type of `example`, so that float32 code stays in float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.cast(builder, args[0], sig.args[0], sig.return_type)

    return example(value, example), codegen
