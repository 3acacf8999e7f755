"""Dtype policy and shape checks, shared by every layer.

Dimension letters, used in every docstring of this package:

    B  rows of a batch              O  width of an observation
    A  width of one action          H  actions in a chunk
    D  width of a flat chunk, H·A   E  members of a critic ensemble
    F  features of a hidden layer   T  denoising (Euler) steps
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qgf_ref.errors import InputError, NonFiniteError

Array = NDArray[Any]

REAL_DTYPES = ("float32", "float64")


def real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype; raises InputError unless it is float32 or float64."""
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        resolved = None
    if resolved is None or resolved.name not in REAL_DTYPES:
        raise InputError(f"dtype must be one of {', '.join(REAL_DTYPES)}; got {dtype!r}")
    return resolved


def matrix(x: Any, name: str, *, columns: int, dtype: DTypeLike | None = None) -> Array:
    """`x` as a 2-D array of `columns` columns of real numbers, cast to `dtype` if given.

    Raises InputError on another rank or width, on values that are not real numbers, on NaN or
    infinity (naming the first row that has one), and on values that do not fit `dtype`.
    """
    try:
        y = x if type(x) is np.ndarray or follows_numpy(x) else np.asarray(x)
    except ValueError:
        raise InputError(f"{name} must be an array of numbers; its rows differ in length") from None
    if y.dtype.kind not in "fiub":
        raise InputError(f"{name} must be an array of real numbers, got dtype {y.dtype}")
    if y.ndim != 2 or y.shape[1] != columns:
        raise InputError(f"{name} must have shape (rows, {columns}), got {y.shape}")
    require_finite(y, name, InputError)
    if y.dtype.kind == "f" and (dtype is None or y.dtype == dtype):
        return y
    with np.errstate(over="ignore"):
        cast = y.astype(np.float64 if y.dtype.kind != "f" else y.dtype, copy=False)
        cast = cast if dtype is None else cast.astype(dtype, copy=False)
    if cast is not y:
        require_finite(cast, f"{name} in {cast.dtype}", InputError)
    return cast


def integer(value: Any) -> int | None:
    """`value` as an int if it is an integer of Python or NumPy, else None."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return None
    return int(value)


def whole_number(value: Any, name: str, least: int = 0, most: int | None = None) -> int:
    """`value` as an int. Raises InputError unless it is an integer within these limits."""
    number = integer(value)
    if number is None or number < least or (most is not None and number > most):
        limit = f"≥ {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} must be a whole number {limit}, got {value!r}")
    return number


def follows_numpy(x: Any) -> bool:
    """Whether x is an array on a GPU that NumPy's functions work on, such as CuPy's."""
    return hasattr(x, "__cuda_array_interface__") and hasattr(x, "__array_function__")


def require_finite(
    x: Array, what: str, error: type[InputError] | type[NonFiniteError] = NonFiniteError
) -> None:
    """Raise `error`, naming the first offending index, if `x` holds NaN or infinity."""
    finite = np.isfinite(x)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        count = int(finite.size - finite.sum())
        raise error(
            f"{what} must be finite: {count} of {finite.size} values are not, "
            f"the first at index {index} ({x[index]})"
        )
