"""Threads that work on one product together: atomic counting, and a barrier."""

from __future__ import annotations

import os
from typing import Any

from llvmlite import ir
from numba import types

from qgf_ref.backends.numba.kernels.cache import inner
from qgf_ref.backends.numba.kernels.simd import intrinsic

SPINS = 4000
"""Looks at the counter before the processor is offered to others, about 10 µs."""
ABORT = 1
"""The counter that is not zero once a member has failed."""
POSIX = os.name == "posix"
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _atomic_increment(typing, counters, index):
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), one, "seq_cst")

    return types.int64(counters, types.intp), codegen


@intrinsic
def _atomic_load(typing, counters, index):
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(counters, types.intp), codegen


@inner
def wait_for_all(counters, member, members):
    """Return when every member has called this as often as this one has, or when one has failed.

    counters (1 + members, 8) int64, zero at first, flat: arrivals and `ABORT`, then each member's
    own rounds, each on a cache line of its own.
    """
    own = 8 * (1 + member)
    counters[own] += 1
    _atomic_increment(counters, 0)
    target = counters[own] * members
    spins = 0
    # after a failure nobody waits for anybody: what is computed then is thrown away
    while _atomic_load(counters, 0) < target and _atomic_load(counters, ABORT) == 0:
        spins += 1
        if spins > SPINS and POSIX:
            _sched_yield()


@inner
def aborted(counters):
    """Whether somebody has failed, or has been interrupted."""
    return _atomic_load(counters, ABORT) != 0
