"""Where code drops the imaginary part of its argument: what makes a complex step lie."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, TextIO
from unittest.mock import patch

import numpy as np

COMPLEX_WARNING: type[Warning] = getattr(np, "exceptions", np).ComplexWarning
NAMED = 3
"""How many places are named."""
_places: dict[str, None] = {}
_watching = RLock()
"""Held while np.asarray and the warnings' filters, which all threads share, are others."""


class _Casts:
    """How many `casts_ignored` are open, and what the last one closes."""

    open: int = 0
    filters: ExitStack = ExitStack()


@contextmanager
def casts_ignored() -> Iterator[None]:
    """No warning of complex numbers that are cast to real ones. In any number of threads at once:
    filters are the process's, and it is the first who changes them and the last who puts them back.
    """
    with _watching:
        if not _Casts.open:
            _Casts.filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", COMPLEX_WARNING)
        _Casts.open += 1
    try:
        yield
    finally:
        with _watching:
            _Casts.open -= 1
            if not _Casts.open:
                _Casts.filters.close()


class _Watched(np.ndarray):
    """An array that notes who makes real numbers of its complex ones, and passes this on."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        result = getattr(ufunc, method)(*_plain(inputs), **_plain(kwargs))
        if ufunc is np.conjugate or _lost(result):
            _note(f"np.{ufunc.__name__}")
        return _watched(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = func(*_plain(args), **_plain(kwargs))
        if func is np.vdot or _lost(result):
            _note(f"{func.__module__}.{func.__name__}".replace("numpy", "np"))
        return _watched(result)

    @property  # type: ignore[misc]
    def real(self) -> Any:
        _note(".real")
        return _plain(self).real

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        if np.dtype(dtype).kind == "f":
            _note(f"astype({np.dtype(dtype).name})")
        return _watched(_plain(self).astype(dtype, *args, **kwargs))


def what_drops_imaginary_parts(f: Callable[[Any], Any], x: Any) -> str:
    """What does so in f at the complex x (an array or a tuple of them), and where; "" if unknown.

    A comparison by the real part is such a place as well, and harmless.
    """
    # np.asarray would end the watch: it makes plain arrays
    keeping = patch.object(np, "asarray", np.asanyarray)
    with _watching, keeping, _casts_shown() as casts:
        _places.clear()
        # f may be particular about its arrays: what was noted until then counts
        with suppress(Exception):
            f(tuple(map(_watched, x)) if isinstance(x, tuple) else _watched(x))
        _places.update(dict.fromkeys(f"a cast to real numbers at {place}" for place in casts))
        return ", ".join(list(_places)[:NAMED])


@contextmanager
def _casts_shown() -> Iterator[list[str]]:
    """Where this thread casts complex numbers to real ones, in order; its warnings are not shown.

    Other threads may be within `casts_ignored`, whose filter is not in force meanwhile: their
    casts are neither noted here nor shown, and what else they warn of is shown as ever.
    """
    thread, show, places = get_ident(), warnings.showwarning, list[str]()

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        cast = issubclass(category, COMPLEX_WARNING)
        if get_ident() != thread:
            if not cast:
                show(message, category, filename, lineno, file, line)
        elif cast and not _ours(filename):
            places.append(_short(filename, lineno))

    with warnings.catch_warnings(), patch.object(warnings, "showwarning", note):
        warnings.simplefilter("always", COMPLEX_WARNING)
        yield places


def _note(what: str) -> None:
    frame = sys._getframe(2)
    while frame.f_back is not None and _numpy(frame.f_code.co_filename):
        frame = frame.f_back
    file = frame.f_code.co_filename
    if file == __file__:  # f itself is NumPy's
        _places[what] = None
    elif not _ours(file):  # ours decide by real parts, and keep the imaginary
        _places[f"{what} at {_short(file, frame.f_lineno)}"] = None


def _lost(result: Any) -> bool:
    """Whether real numbers came out where a watched array, which is complex, went in."""
    return getattr(result, "dtype", None) in (np.float64, np.float32, np.float16)


def _plain(value: Any) -> Any:
    """The same with plain arrays."""
    if isinstance(value, _Watched):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _watched(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and np.iscomplexobj(value):
        return np.asarray(value).view(_Watched)
    return value


def _numpy(file: str) -> bool:
    return Path(np.__file__).parent in Path(file).parents


def _ours(file: str) -> bool:
    return Path(__file__).parent in Path(file).parents


def _short(file: str, line: int) -> str:
    return f"{Path(file).name}:{line}"
