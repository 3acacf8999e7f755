"""The GPU, through the few calls of CuPy that this package makes.

Nothing of CuPy's or CUDA's global state is changed: work goes to a stream of our own, which waits
for the caller's and is waited for by it, and products through a cuBLAS handle of our own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from threading import RLock
from typing import Any

import numpy as np

from qgf_ref.backends.cupy.cublas import Cublas, Matrices
from qgf_ref.backends.cupy.sources import MANY_LAUNCHES, ONE_LAUNCH, OPTIONS, source
from qgf_ref.errors import InputError

WARP = 32
INTERPRETER = "run_program"
"""The kernel for few rows, which is compiled apart."""
ANOTHER = "choose another backend: numba, numpy"
OTHERWISE = f"or {ANOTHER}"
FIRST_WITH_TF32 = 80
"""Compute capability, without its point."""
OLDEST_DRIVER = 12000
"""CUDA's version, as drivers say it: of 12.0, whose graphs and cooperative launches are used."""


def cupy() -> Any:
    """The module. Raises InputError, in one sentence each: without CuPy, driver or GPU, or with a
    driver older than CuPy's CUDA.
    """
    try:
        xp = import_module("cupy")
    except ImportError as error:
        raise InputError(
            f"backend cupy needs CuPy, which cannot be imported ({_line(error)}): pip install "
            f'"cupy-cuda13x[ctk]" (or -cuda12x, as the driver is), {OTHERWISE}'
        ) from error
    runtime = xp.cuda.runtime
    try:
        driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except Exception as error:
        raise InputError(
            f"backend cupy: CUDA does not answer ({_line(error)}); {ANOTHER}"
        ) from error
    if driver == 0:
        raise InputError(
            f"backend cupy needs an NVIDIA GPU with its driver, and there is none here: {ANOTHER}"
        )
    if driver < OLDEST_DRIVER or driver // 1000 < built // 1000:
        raise InputError(
            f"the NVIDIA driver is for CUDA {_version(driver)}, CuPy for {_version(built)}: update "
            f"the driver, install the CuPy for it (cupy-cuda{driver // 1000}x), {OTHERWISE}"
        )
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        raise InputError(f"backend cupy finds no GPU ({_line(error)}): {ANOTHER}") from error
    if not count:
        raise InputError(f"backend cupy finds no GPU (CUDA_VISIBLE_DEVICES?): {ANOTHER}")
    return xp


def require_tensor_cores(xp: Any) -> None:
    """Raise InputError where the current GPU has no TF32."""
    capability = str(xp.cuda.Device().compute_capability)
    if int(capability) < FIRST_WITH_TF32:
        raise InputError(
            f"this GPU, of compute capability {capability[:-1]}.{capability[-1]}, has no TF32, "
            "which came with 8.0: use backend cupy"
        )


def device(tf32: bool = False) -> Device:
    """The current GPU, whose float32 products are rounded to TF32 or not. Raises as `cupy`."""
    xp = cupy()
    return _device(int(xp.cuda.runtime.getDevice()), tf32)


@cache
def _device(number: int, tf32: bool) -> Device:
    return Device(cupy(), number, tf32)


class Device:
    """One GPU: memory, kernels, products, graphs. Calls come from one thread at a time (`lock`).

    tf32  whether cuBLAS rounds the factors of float32 products to TF32
    """

    def __init__(self, xp: Any, number: int, tf32: bool = False) -> None:
        self.xp, self.number, self.lock = xp, number, RLock()
        attributes = xp.cuda.Device(number).attributes
        self.processors = int(attributes["MultiProcessorCount"])
        self.shared_bytes = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.cooperative = bool(attributes["CooperativeLaunch"])
        self.stream = xp.cuda.Stream(non_blocking=True)
        try:
            self.cublas = Cublas(xp, self.stream, tf32)
        except ImportError as error:
            raise InputError(
                f"backend cupy needs NVIDIA's cuBLAS, which cannot be loaded ({_line(error)}): pip "
                f'install "cupy-cuda{xp.cuda.runtime.runtimeGetVersion() // 1000}x[ctk]", '
                f"{OTHERWISE}"
            ) from error
        self._large: set[tuple[str, str, str]] = set()
        self._modules: dict[tuple[tuple[str, str], tuple[str, ...]], Any] = {}
        self._functions: dict[tuple[str, str, str], Any] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """The stream of our own, between what the caller's stream has to do before and after."""
        caller = self.xp.cuda.get_current_stream()
        with self.lock, self.xp.cuda.Device(self.number):
            self.stream.wait_event(caller.record())
            with self.stream:
                yield
            caller.wait_event(self.stream.record())

    def is_own(self, array: Any) -> bool:
        """Whether an array is CuPy's."""
        return isinstance(array, self.xp.ndarray)

    def array(self, array: Any, dtype: Any = None) -> Any:
        """A contiguous CuPy array: the same one, or a copy of NumPy's. Raises as `empty`."""
        with self._enough(getattr(array, "nbytes", 0)):
            return self.xp.ascontiguousarray(self.xp.asarray(array, dtype=dtype))

    def empty(self, shape: Any, dtype: Any) -> Any:
        """An array that is not filled. Raises InputError where the memory does not suffice."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._enough(size):
            return self.xp.empty(shape, dtype)

    @contextmanager
    def _enough(self, size: int) -> Iterator[None]:
        try:
            yield
        except self.xp.cuda.memory.OutOfMemoryError as error:
            free, total = self.memory()
            raise InputError(
                f"the GPU has not enough memory: {size:,} bytes are needed at once, {free:,} of "
                f"{total:,} are free; give fewer rows in a call, {OTHERWISE}"
            ) from error

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, those that CuPy keeps for reuse included, and all."""
        free, total = self.xp.cuda.Device(self.number).mem_info
        return int(free) + int(self.xp.get_default_memory_pool().free_bytes()), int(total)

    def clear(self, address: int, size: int) -> None:
        """Bytes become 0."""
        self.xp.cuda.runtime.memsetAsync(address, 0, size, self.xp.cuda.get_current_stream().ptr)

    def launch(
        self,
        key: tuple[str, str],
        name: str,
        grid: tuple[int, ...],
        block: int | tuple[int, ...],
        args: tuple[Any, ...],
        shared: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Start a kernel of the sources for key = (dtype, activation)."""
        full = *key, name
        files = ONE_LAUNCH if name == INTERPRETER else MANY_LAUNCHES
        function = self._functions.get(full)
        if function is None:
            if (key, files) not in self._modules:
                code = source(*key, files)
                self._modules[key, files] = self.xp.RawModule(code=code, options=OPTIONS)
            function = self._functions[full] = self._modules[key, files].get_function(name)
        if shared > 48 * 1024 and full not in self._large:
            # one that was started with less before is asked, too
            function.max_dynamic_shared_size_bytes = self.shared_bytes
            self._large.add(full)
        blocks = block if isinstance(block, tuple) else (block,)
        # the function below the raw kernel launches cooperatively without CUDA's device library
        function.kernel(
            grid, blocks, args, shared_mem=shared, enable_cooperative_groups=cooperative
        )

    def rows(
        self, key: tuple[str, str], name: str, rows: int, args: tuple[Any, ...], threads: int = 256
    ) -> None:
        """Start a kernel with a warp for each row."""
        self.launch(key, name, (-(-rows * WARP // threads),), threads, args)

    def each(
        self, key: tuple[str, str], name: str, count: int, args: tuple[Any, ...], threads: int = 256
    ) -> None:
        """Start a kernel with a thread for each of `count` numbers."""
        self.launch(key, name, (-(-count // threads),), threads, args)

    def product(
        self, dtype: np.dtype[Any], sizes: tuple[int, int, int], left: Matrices, right: Matrices,
        out: Matrices, members: int = 1, add: bool = False,
    ) -> None:  # fmt: skip
        """`qgf_ref.backends.cupy.cublas.Cublas.product`; on our stream, within `working`."""
        self.cublas.product(dtype, sizes, left, right, out, members, add)

    def captured(self, work: Any) -> Any:
        """The work's launches as a graph; None, with a message, where CUDA cannot capture them."""
        try:
            self.stream.begin_capture()
            try:
                work()
            finally:
                graph = self.stream.end_capture()
        except Exception as error:  # noqa: BLE001  plain launches do the same
            print(
                f"qgf_ref: no CUDA graph ({_line(error)}); its launches are made one by one",
                file=sys.stderr,
            )
            return None
        return graph


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
