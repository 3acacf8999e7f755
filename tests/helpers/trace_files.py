"""Trace files, well and badly formed."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from qgf_ref.interop.trace_file import STEPWISE

STEPS, ROWS, WIDTH = 6, 5, 3


Arrays = dict[str, Any]


def arrays(**changed: Any) -> Arrays:
    """A well-formed trace of T = 6, B = 5, O = 5, D = 3, E = 2, float32, with some of it changed
    (None: left out).
    """
    rng = np.random.default_rng(0)
    shapes = {
        "obs": (ROWS, 5), "noise": (ROWS, WIDTH), "action": (ROWS, WIDTH),
        **dict.fromkeys(STEPWISE, (STEPS, ROWS, WIDTH)), "q": (STEPS, 2, ROWS),
    }  # fmt: skip
    found = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    return {name: x for name, x in {**found, **changed}.items() if x is not None}


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    """The array as an .npy file; one of objects is pickled."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array))
    return buffer.getvalue()


def declaring(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f4") -> bytes:
    """An .npy whose header declares this shape, whatever follows."""
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


def members(**changed: bytes) -> dict[str, bytes]:
    """The members of a trace file."""
    return {f"{name}.npy": data for name, data in {**packed(), **changed}.items()}


def packed() -> dict[str, bytes]:
    return {name: npy(array) for name, array in arrays().items()}
