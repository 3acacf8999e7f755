"""NumPy's `.npz` files: our names, policy.layers.0.kernel, and a string `options`."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.files import npz_bytes, write_atomically
from qgf_ref.interop.format import Format, Written, stated
from qgf_ref.interop.real_tensors import (
    MOST_AXES,
    TensorFile,
    filled,
    from_bfloat16,
    tensor_file,
    text_of,
    with_bfloat16,
)
from qgf_ref.interop.zip_members import ZIP, read_members


def read_npz_tensors(path: Path) -> TensorFile:
    """Any npz of numbers; options from its string `options`. Never unpickles. Raises InputError.

    bfloat16, which NumPy writes as two raw bytes, comes out as float32. Text, times and Python
    objects are passed over, unread, beside arrays of numbers.
    """
    members, _ = read_members(path, "npz", stored=False)
    arrays, objects, options, bfloat16 = {}, [], "", 0
    for member, data in members.items():
        name = member.removesuffix(".npy")
        array = _npy(data, f"{path}: {listing([name])}")
        if array is None:
            objects.append(name)
        elif array.dtype.kind == "V":
            arrays[name] = from_bfloat16(array.view(np.uint16))
            bfloat16 += 1
        elif array.dtype.kind not in "USMm":
            arrays[name] = array
        elif name == "options" and array.ndim == 0:
            options = text_of(array, f"{path}: options")
    if objects and not arrays:
        raise InputError(
            f"{path}: {listing(objects)} has dtype object, Python objects that are not unpickled; "
            "save numbers: numpy.savez(F, **flax.traverse_util.flatten_dict(params, sep='/'))"
        )
    return with_bfloat16(tensor_file(arrays, options, str(path)), bfloat16)


def _npy(data: bytes, where: str) -> Array | None:
    """The array; None of Python objects; of dtype V2 what NumPy makes of bfloat16."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers that NumPy has to repair
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    except Exception as error:  # a header is an expression: what it raises is open
        detail = listing([f"{type(error).__name__}: {error}"])
        raise InputError(f"{where} is no readable array ({detail})") from error
    if dtype.hasobject:
        return None
    raw = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
    if not (raw or dtype.kind in "fiubUSMm") or len(shape) > MOST_AXES:
        raise InputError(
            f"{where} has dtype {listing([str(dtype)])} and {len(shape)} axes; only numbers are "
            "read: write float32"
        )
    rest = data[stream.tell() :]
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(rest):
        shown = listing([str(shape)])
        raise InputError(f"{where} has shape {shown}, which its {len(rest)} bytes do not fill")
    return filled(rest, dtype, shape, "F" if fortran else "C")


def _write(path: Path, tensors: Sequence[Written], checkpoint: Checkpoint) -> None:
    arrays: dict[str, Any] = {w.name: w.array for w in tensors}
    options = np.array(stated(checkpoint))
    write_atomically(path, npz_bytes({**arrays, "options": options}))


NPZ = Format(
    "npz",
    (".npz",),
    read_npz_tensors,
    begins=(ZIP,),
    holds=lambda members: bool(members) and all(name.endswith(".npy") for name in members),
    write=_write,
    next_step="next: numpy.load({path!r})['policy.layers.0.kernel'] …, (in, out)",
)
