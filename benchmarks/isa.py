"""Which instruction set does a contender run with? And all of them held to a narrower one.

    python benchmarks/isa.py            what each says of itself, and how fast its product is
    python benchmarks/isa.py avx2       the same held to 32-byte vectors (AVX2 and FMA)

A processor with AVX-512 can stand for one without where every library heeds a switch. Each has its
own, and one has none (ONNX Runtime's), so that what was asked is not what ran: beside what a
library says of itself stands the rate of its own float32 product on one core. No AVX2 code can pass
two fused multiply-adds of eight numbers a cycle; what is faster than the fastest of those that are
known to heed the switch ran wider vectors. The other way round a rate proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qgf_ref.arrays import Array  # noqa: E402
from qgf_ref.tables import text_table  # noqa: E402

AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "",
    "OPENBLAS_CORETYPE": "Haswell",
    # the names of NumPy 2.4 and later; older ones are ignored there with a warning
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    # code that torch.compile kept for AVX-512 is wrong with AVX2, and is not told from it:
    # findings/torch_compile_cache_by_capability.sh
    "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), "torchinductor_avx2")),
}
"""Environment in which every library that can be held to AVX2 is."""
SETS = {"native": {}, "avx2": AVX2}
HEED = "numba", "numpy"
"""Contenders whose switch is known to be heeded: what they compile or call can be read."""
SIZE, ROUNDS, TURN, ABOVE = 768, 8, 0.15, 1.3
"""Rows of the products; turns of each and seconds of one; how much faster is wider."""
ONE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "QGF_REF_THREADS")


def environment(name: str) -> dict[str, str]:
    """This process's environment, held to an instruction set. XLA's other flags stay."""
    asked = dict(SETS[name])
    if flags := os.environ.get("XLA_FLAGS"):
        asked = {**asked, **({"XLA_FLAGS": f"{flags} {asked['XLA_FLAGS']}"} if asked else {})}
    return {**os.environ, **asked}


def _numba(a: Array) -> tuple[str, Callable[[], Any]]:
    from numba import njit
    from numba.core.registry import cpu_target

    from qgf_ref.backends.numba.kernels.gemm import multiply, packed, panels
    from qgf_ref.backends.numba.kernels.simd import VECTOR_BYTES

    n, b, c = len(a), packed(a), np.zeros(a.size + 64, a.dtype)
    flat, count = a.ravel(), panels(len(a), a.itemsize)

    @njit(error_model="numpy")
    def product(x, y, z):  # type: ignore[no-untyped-def]
        multiply(x, 0, n, 1, n, y, 0, n, 0, count, z, 0, n)

    name = cpu_target.target_context.codegen().magic_tuple()[1]
    return f"{VECTOR_BYTES}-byte vectors, {name}", lambda: product(flat, b, c)


def _numpy(a: Array) -> tuple[str, Callable[[], Any]]:
    import ctypes

    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    core = "?"
    for path in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
        with suppress(OSError, AttributeError):
            ask = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
            ask.restype = ctypes.c_char_p
            core = ask().decode()
    wide = _multiarray_umath.__cpu_features__.get("X86_V4")
    return f"OpenBLAS {core}, X86_V4 {'on' if wide else 'off'}", lambda: a @ a


def _jax(a: Array) -> tuple[str, Callable[[], Any]]:
    import jax

    multiply, x = jax.jit(lambda x: x @ x), jax.numpy.asarray(a)
    flag = [f for f in os.environ.get("XLA_FLAGS", "").split() if "max_isa" in f]
    return (flag or ["no flag"])[0], lambda: multiply(x).block_until_ready()


def _torch(a: Array) -> tuple[str, Callable[[], Any]]:
    import torch

    torch.set_num_threads(1)
    x = torch.from_numpy(a)
    return torch.backends.cpu.get_cpu_capability(), lambda: x @ x


def _product_model(n: int) -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(k, TensorProto.FLOAT, [n, n]) for k in "xyz"]
    node = helper.make_node("MatMul", ["x", "y"], ["z"])
    graph = helper.make_graph([node], "product", value[:2], value[2:])
    opset = [helper.make_opsetid("", 17)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return made


def _onnxruntime(a: Array) -> tuple[str, Callable[[], Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        _product_model(len(a)), options, providers=["CPUExecutionProvider"]
    )
    return "no switch", lambda: session.run(None, {"x": a, "y": a})


def _openvino(a: Array) -> tuple[str, Callable[[], Any]]:
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(_product_model(len(a))), "CPU", settings)
    nodes = [op.get_rt_info() for op in model.get_runtime_model().get_ops()]
    kinds = {x["layerType"].astype(str): x["primitiveType"].astype(str) for x in nodes}
    return str(kinds.get("MatMul", "says nothing")), lambda: model({"x": a, "y": a})


CONTENDERS = {
    "numba": _numba, "numpy": _numpy, "JAX": _jax, "PyTorch": _torch,
    "ONNX Runtime": _onnxruntime, "OpenVINO": _openvino,
}  # fmt: skip


def _rates(products: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """GFLOP/s of each one's fastest call; in turns, as processors change their clocks."""
    best = dict.fromkeys(products, np.inf)
    for _ in range(ROUNDS):
        for name, product in products.items():
            product()
            end = time.perf_counter() + TURN
            while (began := time.perf_counter()) < end:
                product()
                best[name] = min(best[name], time.perf_counter() - began)
    return {name: round(2 * SIZE**3 / seconds / 1e9, 1) for name, seconds in best.items()}


def _measured() -> dict[str, dict[str, Any]]:
    """In this process's environment: contender → says, gflops; or says why not."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:1]))
    a = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    found: dict[str, dict[str, Any]] = {}
    products: dict[str, Callable[[], Any]] = {}
    for name, prepare in CONTENDERS.items():
        try:
            says, products[name] = prepare(a)
            found[name] = {"says": says}
        except ImportError as missing:
            found[name] = {"says": f"not installed: {missing.name}"}
    rates = _rates(products)
    return {name: {**each, "gflops": rates.get(name)} for name, each in found.items()}


def ran(name: str) -> dict[str, dict[str, Any]]:
    """What each contender ran, asked for a set of `SETS`: says, gflops, and whether it was wider.

    In a process of its own, on one core: some 15 seconds.
    """
    env = {**environment(name), **dict.fromkeys(ONE, "1"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__, "--measured"],
        env=env, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    held = max(found[n]["gflops"] for n in HEED)
    for each in found.values():
        each["wider"] = bool(
            SETS[name] and each["gflops"] is not None and each["gflops"] > ABOVE * held
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", nargs="?", choices=SETS, default="native", help="default: native")
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measured:
        print(json.dumps(_measured()))
        return 0
    rows = [
        [who, each["says"], str(each["gflops"]), "yes" if each["wider"] else ""]
        for who, each in ran(args.set).items()
    ]
    print(text_table(["contender", "says", "GFLOP/s", "wider than asked"], rows))
    return 0


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
