"""Data sets that come as a directory of slices and do not fit in memory as a whole."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing

VALIDATION_SUFFIX = "-val.npz"

Data = TypeVar("Data")
"""What a slice is loaded as: an object whose arrays are its attributes."""


def slice_files(directory: Path) -> list[Path]:
    """The slices of a data set: every *.npz in `directory` but the -val.npz, sorted by name.

    Raises InputError when there is no such directory or no slice in it. Source: official.md,
    section 2.
    """
    if not directory.is_dir():
        kind = "a file; expected" if directory.exists() else "missing; expected"
        raise InputError(f"{directory} is {kind} a directory of slices (*.npz)")
    found = sorted(
        path
        for path in directory.iterdir()
        if path.suffix == ".npz" and not path.name.startswith(".") and path.is_file()
    )
    slices = [path for path in found if not path.name.endswith(VALIDATION_SUFFIX)]
    if not slices:
        present = listing(sorted(path.name for path in directory.iterdir()), most=5)
        raise InputError(
            f"{directory} has no slices: expected *.npz files beside those that end in "
            f"{VALIDATION_SUFFIX}; it holds {present}"
        )
    return slices


@dataclass(frozen=True)
class _Pending(Generic[Data]):
    """A slice that is being loaded, or is loaded and not yet in use."""

    number: int
    future: Future[Data]


class SliceStream(Generic[Data]):
    """The slices of a data set in turn, each serving `every` updates, the next loaded meanwhile.

    files  one slice each, in order (`slice_files`)
    load   reads one; runs in a background thread, and is called again whenever a slice is needed
           again. What it needs beyond its result comes on top of the two slices below.
    every  updates between swaps

    Which slice serves an update depends on the update's number alone, so that a resumed run goes
    on as if it had never stopped. At most two slices are alive: the one in use, and either the
    next or the previous one. The previous one lives on in the caller's variable when `at` returns,
    so the next is only begun at a later call of `at` that finds it gone; a caller that keeps the
    previous one waits for the load at every swap, and adds what it keeps to the two.
    For one calling thread. Raises InputError on no files or every < 1.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[Path], Data], every: int) -> None:
        self.files = tuple(files)
        self.every = every
        if not self.files:
            raise InputError("a stream of slices needs at least one file, got none")
        if every < 1:
            raise InputError(f"every, the updates between swaps, must be at least 1, got {every}")
        self._load = load
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slice")
        self._closed = False
        self._index = -1
        self._current: Data | None = None
        self._previous: weakref.ref[Data] | None = None
        self._pending: _Pending[Data] | None = None
        self._peak = 0

    def index(self, update: int) -> int:
        """The number of the slice that serves update number `update`, counted from 1.

        (update // every) mod len(files): the swap comes before every update divisible by `every`,
        so slice 0 first serves only every − 1 updates. Raises InputError when update < 1.
        Source: official.md, section 2.
        """
        if update < 1:
            raise InputError(f"updates are counted from 1, got {update}")
        return (update // self.every) % len(self.files)

    def at(self, update: int) -> Data:
        """The slice that serves update number `update`, counted from 1; any order is allowed.

        Waits only when the slice is not loaded yet. Raises InputError naming the file when it
        cannot be read or does not fit in memory, RuntimeError naming it when `load` fails
        otherwise; the next call tries again.
        """
        if self._closed:
            raise InputError("this stream of slices is closed; make a new one")
        wanted = self.index(update)
        current = self._current if self._index == wanted else None
        if current is None:
            current = self._swap(wanted)
        self._load_ahead()
        return current

    @property
    def resident_bytes(self) -> int:
        """Memory of the slices alive now: in use, loaded ahead, and the previous one if the caller
        still has it.
        """
        ahead = None
        if self._pending is not None and self._pending.future.done():
            failed = self._pending.future.cancelled() or self._pending.future.exception()
            ahead = None if failed else self._pending.future.result()
        return self._count(ahead)

    @property
    def peak_bytes(self) -> int:
        """The largest memory of slices alive at the end of any load so far."""
        return self._peak

    def close(self) -> None:
        """Drop the slices and end the thread; waits for a load that is under way."""
        self._closed = True
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._current = self._pending = None

    def __enter__(self) -> SliceStream[Data]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _swap(self, wanted: int) -> Data:
        pending = self._pending
        if pending is not None and pending.number != wanted:
            # a running load cannot be cancelled, and a second beside it would make three slices
            pending.future.cancel()
            wait([pending.future])
            pending = self._pending = None
        if pending is None:
            self._retire()
            pending = self._begin(wanted)
        try:
            loaded = pending.future.result()
        except (
            Exception
        ):  # not KeyboardInterrupt: then the load goes on, and the next call finds it
            self._pending = None
            raise
        self._retire()
        self._index, self._current, self._pending = wanted, loaded, None
        return loaded

    def _load_ahead(self) -> None:
        following = (self._index + 1) % len(self.files)
        if self._pending is not None or following == self._index:
            return
        if self._previous is None or self._previous() is None:
            self._begin(following)

    def _begin(self, index: int) -> _Pending[Data]:
        self._pending = _Pending(index, self._worker.submit(self._read, self.files[index]))
        return self._pending

    def _retire(self) -> None:
        if self._current is not None:
            self._previous = weakref.ref(self._current)
        self._index, self._current = -1, None

    def _read(self, path: Path) -> Data:
        try:
            loaded = self._load(path)
        except (InputError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise InputError(f"cannot load slice {path}: {reason or error}") from error
        except MemoryError as error:
            raise InputError(
                f"slice {path} does not fit in memory, where two slices must fit at a time; "
                f"give smaller ones"
            ) from error
        except Exception as error:
            raise RuntimeError(
                f"loading slice {path} failed: {type(error).__name__}: {error}"
            ) from error
        self._peak = max(self._peak, self._count(loaded))
        return loaded

    def _count(self, ahead: Data | None) -> int:
        previous = None if self._previous is None else self._previous()
        buffers: dict[int, Array] = {}
        for held in (previous, self._current, ahead):
            if held is not None:
                for array in vars(held).values():
                    if isinstance(array, np.ndarray):
                        owner = _owner(array)
                        buffers[id(owner)] = owner
        return sum(buffer.nbytes for buffer in buffers.values())


def _owner(array: Array) -> Array:
    # next_observations may be a view of observations: the memory counts once, and as a whole
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
