"""The members behind the kernels interface, by name. Numba is imported when it is asked for."""

from __future__ import annotations

from numpy.typing import DTypeLike

from qgf_ref.arrays import real_dtype
from qgf_ref.errors import unknown_name
from qgf_ref.ops.kernels import Kernels, reference_kernels

MEMBERS = ("numpy", "numba")
"""numpy: the reference primitives. numba: compiled dense blocks and learning primitives."""


def kernels_named(name: str, dtype: DTypeLike | None = None) -> Kernels:
    """The kernels of a member; raises InputError, listing the valid names, on another name.

    dtype  compile numba's for float32 or float64 now, not at their first use, and say so on stderr
           where the disk does not have them yet
    """
    if name == "numpy":
        return reference_kernels
    if name != "numba":
        raise unknown_name("kernels", name, MEMBERS)
    # here, so that nothing that runs on NumPy alone waits for Numba's import
    from qgf_ref.backends.numba.kernels.fused import numba_kernels, prepare

    if dtype is not None:
        prepare(real_dtype(dtype))
    return numba_kernels
