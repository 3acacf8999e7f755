"""Every kernel compiles for the GPUs that are meant, without spills and local memory."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from qgf_ref.backends.cupy.sources import (
    FILES,
    FOLDER,
    MANY_LAUNCHES,
    ONE_LAUNCH,
    OPTIONS,
    SEVERAL,
    source,
)
from qgf_ref.ops.activations import ACTIVATIONS
from tests.helpers.some import some

KERNEL = r'extern "C" __global__ void\s+(?:__launch_bounds__\([\w, ]+\)\s+)?(\w+)\('


@cache
def nvrtc() -> ctypes.CDLL:
    """NVIDIA's run-time compiler from the wheel nvidia-cuda-nvrtc, which needs no driver."""
    spec = importlib.util.find_spec("nvidia")
    places = (
        [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    )
    found = sorted(path for place in places for path in place.rglob("libnvrtc.so.*"))
    if not found:
        pytest.skip("no NVRTC here to compile the CUDA kernels: pip install nvidia-cuda-nvrtc")
    builtins = sorted(found[-1].parent.glob("libnvrtc-builtins.so.*"))
    for path in builtins:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(found[-1]))


def compiled(text: str, architecture: str) -> str:
    """The compiler's log, of a compilation that succeeds."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"qgf.cu", 0, None, None)
    options = [*OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), array)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
    return log.value.decode()


def require_tight(log: str, kernels: set[str]) -> None:
    """Every kernel is reported, with no stack frame and no spills."""
    reported = set(re.findall(r"Compiling entry function '(\w+)'", log))
    assert reported == kernels
    found = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", log)
    assert len(found) >= len(kernels)
    assert set(found) == {("0", "0", "0")}, log


def test_all_files_are_compiled() -> None:
    assert {path.stem for path in FOLDER.glob("*.cu")} == set(FILES)
    assert {*ONE_LAUNCH, *MANY_LAUNCHES} == set(FILES)


@pytest.mark.parametrize("dtype", some(["float32", "float64"], 1))
def test_kernels_compile_without_spills(dtype: str) -> None:
    """All but the interpreter for few rows, which takes the compiler longest."""
    text = source(dtype, "gelu", MANY_LAUNCHES)
    compiled(text, "compute_80")
    require_tight(compiled(text, "sm_90"), set(re.findall(KERNEL, text)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", ["compute_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("activation", ["gelu", SEVERAL])
def test_all_kernels_compile_without_spills(dtype: str, architecture: str, activation: str) -> None:
    for files in (ONE_LAUNCH, MANY_LAUNCHES):
        text = source(dtype, activation, files)
        log = compiled(text, architecture)
        if architecture.startswith("sm"):
            require_tight(log, set(re.findall(KERNEL, text)))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_compiles(activation: str) -> None:
    for dtype in ("float32", "float64"):
        text = source(dtype, activation, MANY_LAUNCHES)
        require_tight(compiled(text, "sm_90"), set(re.findall(KERNEL, text)))


def test_the_check_finds_a_stack_frame() -> None:
    text = """extern "C" __global__ void indexed(int* out, const int* at) {
      volatile int local[64];
      for (int i = 0; i < 64; ++i) local[i] = out[i];
      out[0] = local[at[0]] + local[at[1]];
    }"""
    log = compiled(text, "sm_90")
    with pytest.raises(AssertionError):
        require_tight(log, {"indexed"})
