"""Where a training's arrays are: in the GPU's memory, the data set too when it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.cupy.device import device
from qgf_ref.backends.cupy.structs import DATASET, arguments, struct
from qgf_ref.losses.batch import AnyBatch, Batch

SHARE = 0.5
"""Of the free memory, what a data set may take."""
KEY = "float32", "gelu"
B = TypeVar("B", bound=AnyBatch)
ARRAYS = "observations", "next_observations", "actions", "rewards", "masks", "terminals"


class DeviceArrays:
    """`qgf_ref.backends.interface.Residence` of a GPU. Batches are float32."""

    def __init__(self, tf32: bool = False) -> None:
        self.device = device(tf32)
        self._data: tuple[Any, dict[str, Any] | None] = None, None
        self._staging: dict[Any, list[tuple[dict[str, Array], Any]]] = {}
        """By shapes and dtypes: two pinned places, and when the last copy out of each is done."""

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        with self.device.working():
            return self.device.array(array)

    def get(self, array: Any) -> Array:
        """A copy on the host, of what is on the device; another array as it is."""
        if not self.device.is_own(array):
            return array
        with self.device.working():
            copied: Array = array.get()
            return copied

    def windows(
        self, data: Any, starts: Array, horizon: int, discount: float,
        on_host: Callable[[], Batch],
    ) -> Batch:  # fmt: skip
        """The windows that begin at `starts`, as `qgf_ref.data.windows` gives them.

        on_host  makes the batch in NumPy, for a data set that does not fit
        """
        with self.device.working():
            if self._data[0] is not data:
                self._data = data, self._upload(data)
            arrays = self._data[1]
            if arrays is None:
                return self.upload(on_host())
            return self._gathered(arrays, starts, horizon, discount)

    def _upload(self, data: Any) -> dict[str, Any] | None:
        size = sum(getattr(data, name).size for name in ARRAYS) * 4
        if size > SHARE * self.device.memory()[0]:
            return None
        return {name: self.device.array(getattr(data, name), np.float32) for name in ARRAYS}

    def _gathered(
        self, arrays: dict[str, Any], starts: Array, horizon: int, discount: float
    ) -> Batch:
        rows, here = len(starts), self.device
        steps, O = arrays["observations"].shape
        A = arrays["actions"].shape[1]
        pointers = {name: array.data.ptr for name, array in arrays.items()}
        dataset = struct(DATASET, **pointers, steps=steps, obs_dim=O, action_dim=A)
        shapes: dict[str, tuple[int, ...]] = {
            "obs": (rows, O),
            "action": (rows, horizon * A),
            "next_obs": (rows, O),
        }
        shapes |= dict.fromkeys(("rewards", "masks", "valid"), (rows,))
        out = {name: here.empty(shape, np.float32) for name, shape in shapes.items()}
        where = here.array(starts.astype(np.int64))
        args = dataset, where.data.ptr, rows, horizon, float(discount)
        args = (*args, *(array.data.ptr for array in out.values()))
        here.rows(KEY, "gather_windows", rows, arguments(args))
        return Batch(**out)

    def upload(self, batch: B) -> B:
        """From one of two pinned places, while the other one's copy may be under way."""
        arrays = {
            name: array.astype(np.float32) if array.dtype.kind == "f" else array
            for name, array in vars(batch).items()
        }
        like = tuple((array.shape, array.dtype.name) for array in arrays.values())
        with self.device.working():
            places = self._staging.setdefault(like, [])
            while len(places) < 2:
                places.append(({name: self._pinned(array) for name, array in arrays.items()}, None))
            pinned, copied = places.pop(0)
            if copied is not None:
                copied.synchronize()
            out = {}
            for name, array in arrays.items():
                out[name] = self.device.empty(array.shape, array.dtype)
                if array.size:
                    pinned[name][...] = array
                    out[name].set(pinned[name], stream=self.device.stream)
            places.append((pinned, self.device.stream.record()))
        return type(batch)(**out)

    def _pinned(self, like: Array) -> Array:
        if not like.size:
            return like
        memory = self.device.xp.cuda.alloc_pinned_memory(like.nbytes)
        return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)
