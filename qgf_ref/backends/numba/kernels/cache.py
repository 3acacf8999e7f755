"""Compilation: Numba functions, and machine code kept on disk between runs.

The cache's key is the text of every module with compiled code and Numba's version, so that no stale
code can be loaded (Numba's own cache looks at one file's date, not at what that file imports). It
lies in `QGF_REF_CACHE_DIR`, else in `$XDG_CACHE_HOME/qgf_ref`, else in `~/.cache/qgf_ref`; where
that cannot be written, or is full, every process compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    _CacheLocator,
)

from qgf_ref.errors import InputError, reason
from qgf_ref.files import user_path

PACKAGE = Path(__file__).parents[3]
COMPILED = ("backends/program", "backends/numba")
"""Folders with compiled functions and their constants."""
CONSTANTS = ("ops/activations.py", "ops/dense.py", "ops/time_embedding.py")
"""Other files whose constants are compiled in."""
FLAGS = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""Compiled code lets other Python threads run, and divides without asking for zero. It counts no
references, as Python holds every array that a kernel is given."""
WITHIN = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}
"""For functions that only compiled code calls: a call from Python would end the process."""
DURATION = "10 to 40 seconds on an idle core"


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function with these options of Numba's, also where NUMBA_DISABLE_JIT is set: that
    is meant for the user's own code, and ours, which is written in vectors, is not Python.
    """
    disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
    try:
        return numba.njit(**FLAGS, **options)(function)
    finally:
        numba.config.DISABLE_JIT = disabled


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that only compiled code calls. Products and sums may become fused."""
    return compiled(function, fastmath={"contract"}, **WITHIN)


def spliced(function: Callable[..., Any]) -> Any:
    """`inner`, put into its caller's text: LLVM sees it there alone, not by itself before."""
    return compiled(function, fastmath={"contract"}, inline="always", **WITHIN)


def summing(function: Callable[..., Any]) -> Any:
    """`inner` for sums along a row, whose order LLVM may choose."""
    return compiled(function, fastmath={"contract", "reassoc", "nsz"}, **WITHIN)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls; its machine code is kept on disk."""
    dispatcher = compiled(function, fastmath={"contract"})
    if directory() is not None:
        dispatcher._cache = _Cache(function)
    return dispatcher


@cache
def directory() -> Path | None:
    """Where this version's machine code is kept, or None if nothing can be written there."""
    base = os.environ.get("QGF_REF_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        parent = user_path(base) if base else user_path(home or "~/.cache") / "qgf_ref"
        path = parent / _version()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, InputError):  # InputError: a user without a home
        return None
    return path if os.access(path, os.W_OK) else None


_DAMAGED = (EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError, ImportError)
"""What unpickling a file raises that is cut short or overwritten."""
_ready: set[str] = set()


def compiling(what: str) -> AbstractContextManager[bool]:
    """Around a use of kernels: says on stderr that `what` is being compiled, if the disk lacks it.

    A file beside the machine code remembers that it was. Gives whether this is the process's first
    use of them.
    """
    return _AGAIN if what in _ready else _first_use(what)


_AGAIN = nullcontext(False)


@contextmanager
def _first_use(what: str) -> Iterator[bool]:
    place = directory()
    mark = None if place is None else place / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    if mark is None or not mark.exists():
        kept = f"once: kept in {place}" if place else "kept nowhere, for want of a cache directory"
        print(f"qgf_ref: compiling {what}: {DURATION} ({kept})", file=sys.stderr, flush=True)
    yield True
    _ready.add(what)
    if mark is not None:
        with suppress(OSError):  # the machine code is worth more than the mark
            mark.touch()


def sources() -> list[Path]:
    """Every file whose text goes into machine code."""
    own = sorted(path for name in COMPILED for path in (PACKAGE / name).rglob("*.py"))
    return [*own, *(PACKAGE / name for name in CONSTANTS)]


@cache
def _version() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in sources():
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class _Locator(_CacheLocator):
    def __init__(self, function: Callable[..., Any]) -> None:
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(directory())

    def get_source_stamp(self) -> str:
        return _version()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func)


class _Storage(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    """One index for each signature: processes that compile for different dtypes at the same time
    would number their files alike. A damaged file counts as none.
    """

    _impl_class = _Storage

    def _choose(self, signature: Any) -> None:
        name = hashlib.sha256(str(signature).encode()).hexdigest()[:12]
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=f"{self._impl.filename_base}-{name}",
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        self._choose(sig)
        try:
            return super().load_overload(sig, target_context)
        except (*_DAMAGED, OSError):
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._choose(sig)
        try:
            try:
                super().save_overload(sig, data)
            except _DAMAGED:
                self._cache_file.flush()
                super().save_overload(sig, data)
        except OSError as error:  # the disk is full, a quota is used up, the place is gone
            _say_not_kept(self._cache_path, reason(error))


@cache
def _say_not_kept(place: str, why: str) -> None:
    print(
        f"qgf_ref: machine code cannot be kept in {place} ({why}): going on without; every process "
        "compiles anew. QGF_REF_CACHE_DIR names another place",
        file=sys.stderr,
    )
