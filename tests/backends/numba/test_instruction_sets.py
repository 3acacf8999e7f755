"""The compiled sampler held to narrower vectors than the processor has, as LLVM compiles for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from benchmarks.isa import environment

ROOT = Path(__file__).resolve().parents[3]
KERNELS = "import qgf_ref.backends.numba.kernels.simd as s; print(s.VECTOR_BYTES, s.TILE_ROWS)"


def run(*arguments: str, **more: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def avx2() -> None:
    if not binding.get_host_cpu_features().get("avx2"):
        pytest.skip("needs a processor with AVX2")


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize(
    ("held", "expected"),
    [({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, "32 6"),
     ({"NUMBA_CPU_NAME": "generic"}, "16 8")],
)  # fmt: skip
def test_vectors_are_as_wide_as_what_is_compiled_for(held: dict[str, str], expected: str) -> None:
    """The tile of the processor's own vectors would be taken apart, and its sums kept in memory."""
    assert run("-c", KERNELS, **held).split() == expected.split()


@pytest.mark.slow
@pytest.mark.usefixtures("avx2")
def test_everything_compiled_with_avx2() -> None:
    """The tests of the compiled sampler and of its kernels, all of them."""
    held = {k: v for k, v in environment("avx2").items() if os.environ.get(k) != v}
    said = run("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "tests/backends/numba",
               "--deselect", "tests/backends/numba/test_instruction_sets.py", **held)  # fmt: skip
    assert " passed" in said and "failed" not in said
    assert run("-c", KERNELS, **held).split() == ["32", "6"]
