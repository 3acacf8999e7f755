"""Mistakes planted in the kernels' sources, each of which the tests must catch."""

from __future__ import annotations

PLANTED: dict[str, tuple[str, str, str]] = {
    # name: file, text, what stands in its place
    "no barrier between a tile's writing and reading": (
        "product", "written over in the one after it\n    __syncthreads();", "gone\n"),
    "no meeting after a product": (
        "persistent", "    multiply(m, net, l, p);\n    meet(m);\n    if (l == net.hidden) add_up",
        "    multiply(m, net, l, p);\n    if (l == net.hidden) add_up"),
    "places do not take turns": (
        "persistent", "m.c.scratch + m.c.z + (m.met & 1) * m.c.z_size",
        "m.c.scratch + m.c.z"),
    "no barrier before a block's rows are read": (
        "persistent", "thread / WARP) work(team, e, i);\n  __syncthreads();",
        "thread / WARP) work(team, e, i);"),
    "no barrier in a block's sum": (
        "persistent", "room[lane / WARP] = x;\n    __syncthreads();", "room[lane / WARP] = x;"),
    "a mask without the last lane": (
        "common", "x += __shfl_xor_sync(ALL_LANES, x, step)",
        "x += __shfl_xor_sync(0x7fffffffu, x, step)"),
    "half of a sum": ("common", "(int step = WARP / 2; step > 0", "(int step = WARP / 4; step > 0"),
    "a row too few": (
        "rows", "Index(counts[p.member]) : b.rows);", "Index(counts[p.member]) : b.rows - 1);"),
    "a row too far": (
        "rows", "p.at = p.member * b.capacity + p.row;",
        "p.at = p.member * b.capacity + p.row + 1;"),
    "the forward's row for the packed one": (
        "rows", "at = p.packed * b.stride;\n  const Real* from",
        "at = p.at * b.stride;\n  const Real* from"),
    "a column too many": ("product", "k < inner; k += DEPTH", "k < inner - DEPTH; k += DEPTH"),
    "no barrier before the columns' sum": (
        "columns", "sums[2 * plane + own] = offset_sum;\n  __syncthreads();",
        "sums[2 * plane + own] = offset_sum;"),
    "a padding that counts": (
        "common", "p.v[i] = j + i < columns ? p.v[i] : Real(0);\n  } else",
        "p.v[i] += 0;\n  } else"),
    "LayerNorm of what the activation was given": (
        "layers", "if (layer.norm == NORM_AFTER) {", "if (false) {"),
    "the activation's slope on the wrong side": (
        "layers", "p.before.v[i] = last ? f.slope : Real(1);", "p.before.v[i] = Real(1);"),
    "no bend before LayerNorm": (
        "layers", "if (last) c.v[i] += p.bend.v[i] * d.v[i] * w;", ""),
    "another row's sum": (
        "rows", "carry ? carry + p.at * b.stride : nullptr,", "carry ? carry + p.row : nullptr,"),
    "a product that replaces": (
        "product", "p.v[q] += before.v[q];", "p.v[q] += Real(0) * before.v[q];"),
    "a seed that is not carried": (
        "layers", "    if (carried) store(carried, j, layer.columns, layer.aligned, b);\n", ""),
    "no cotangent past a residual block": (
        "persistent", "if (p.carried) total += p.carried[at];", ""),
    "a seed's numbers in the derivatives, too": (
        "persistent", "  if (i >= m.counts[e]) return 0;", "  i %= m.counts[e];"),
    "the tangent is not carried": (
        "persistent", "team), z, carry, hidden, team);", "team), z, nullptr, hidden, team);"),
    "an array's first number of the one before": (
        "learning", "if (leaves[middle].start <= i)", "if (leaves[middle].start < i)"),
    "no barrier in a total": (
        "learning", "sums[threadIdx.x] = own;\n  __syncthreads();", "sums[threadIdx.x] = own;"),
    "half of a total": ("learning", "half > 0; half /= 2", "half > 1; half /= 2"),
    "the last square alone": ("learning", "own += x * x;", "own = x * x;"),
    "a gradient that is not scaled": (
        "learning", "out[i] = Real(scale) * reinterpret", "out[i] = reinterpret"),
    "one moment for the other": (
        "learning", "reinterpret_cast<const Real*>(leaf.mean)[j]",
        "reinterpret_cast<const Real*>(leaf.square)[j]"),
    "an average of the wrong network": (
        "learning", "Real(tau) * reinterpret_cast<const Real*>(leaf.bar)[j]",
        "Real(tau) * reinterpret_cast<const Real*>(leaf.theta)[j]"),
}  # fmt: skip


def planted(name: str, read: dict[str, str]) -> dict[str, str]:
    """The sources by file, one of them with the mistake."""
    file, right, wrong = PLANTED[name]
    assert right in read[file], f"{file}.cu no longer has the text of {name!r}"
    return {**read, file: read[file].replace(right, wrong)}
