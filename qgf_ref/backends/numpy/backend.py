"""The backend numpy."""

from __future__ import annotations

from typing import Any

from qgf_ref.backends.interface import Backend
from qgf_ref.ops.kernels import Kernels, reference_kernels


def kernels(dtype: Any = None) -> Kernels:
    """The reference kernels, of every dtype."""
    return reference_kernels


BACKEND = Backend("numpy", kernels, packages=("numpy",))
