"""Compiles CUDA sources for the CPU, against cuda_on_cpu.h, and launches their kernels."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
KERNEL = r'extern "C" __global__ void\s+(?:__launch_bounds__\([\w, ]+\)\s+)?(\w+)\('
FORWARDS, BACKWARDS, RANDOM, ONE_BLOCK_FIRST = ORDERS = 0, 1, 2, 3
"""Orders in which threads take turns."""
FLAGS = (
    "-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-fno-strict-aliasing", "-fsanitize=alignment",
    "-fsanitize-recover=alignment",
)  # fmt: skip


class KernelError(Exception):
    """A kernel did what a GPU would hang at or get wrong."""


def require_compiler() -> None:
    """Skip, saying so, where there is no C++ compiler."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here, to run the CUDA kernels on the CPU")


@cache
def library(source: str) -> ctypes.CDLL:
    """The kernels of a CUDA source. Compiled once for all processes that run tests together."""
    names = re.findall(KERNEL, source)
    wrapped = "\n".join(
        f'extern "C" int launch_{name}(const int* grid, const int* block, size_t shared, '
        "int order, unsigned seed, int cooperative, void** args, char* message, size_t room) {\n"
        "  return on_cpu::run(grid, block, shared, order, seed, cooperative, "
        f"[=] {{ on_cpu::call({name}, args); }}, message, room);\n}}"
        for name in names
    )
    text = f'#include "{HEADER}"\n{source}\n{wrapped}\n'
    key = hashlib.sha256((text + HEADER.read_text() + str(FLAGS)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"qgf_ref_kernels_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            code, made = Path(scratch) / "kernels.cpp", Path(scratch) / "kernels.so"
            code.write_text(text)
            command = [str(COMPILER), *FLAGS, str(code), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[:4000]
            made.rename(path)
    return ctypes.CDLL(str(path))


def launch(
    source: str,
    name: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: tuple[Any, ...],
    shared: int = 0,
    order: int = FORWARDS,
    seed: int = 0,
    cooperative: bool = False,
) -> None:
    """Run a kernel; args: NumPy scalars, and arrays of one element, by value.

    Raises KernelError with what went wrong.
    """
    values = [np.ascontiguousarray(value) for value in args]
    pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    sizes = [(ctypes.c_int * 3)(*(*size, 1, 1)[:3]) for size in (grid, block)]
    message = ctypes.create_string_buffer(400)
    function = getattr(library(source), f"launch_{name}")
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint,
        ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t,
    ]  # fmt: skip
    failed = function(*sizes, shared, order, seed, cooperative, pointers, message, 400)
    if failed:
        raise KernelError(f"{name}: {message.value.decode()}")
