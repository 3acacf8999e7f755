#!/usr/bin/env bash
# XLA's --xla_cpu_max_isa narrows the loops that XLA compiles, and not its matrix products: those come from
# a library inside jaxlib that looks at the processor itself.
#
# Expected: with XLA_FLAGS=--xla_cpu_max_isa=AVX2 a machine with AVX-512 stands for one without, as PyTorch
# does with ATEN_CPU_CAPABILITY, oneDNN with ONEDNN_MAX_CPU_ISA, OpenBLAS with OPENBLAS_CORETYPE: all of
# JAX is timed with 32-byte vectors, as its flag's description ("maximum ISA that XLA LLVM codegen will
# use") lets one think.
# Seen (jaxlib 0.10.2): limited even to SSE4_2, which has no fused multiply-add and 16-byte vectors, a
# float32 product of 512 rows takes as long as without a limit (a fourth of the speed at most would be
# left on AVX2, an eighth on AVX-512), while a polynomial over the same numbers, which XLA compiles, takes
# 1.5 to 4 times as long. No warning says which part of a program the flag is for.
# Why it matters: speeds "with AVX2" that were measured so on a machine with more compare a rival's AVX-512
# products with somebody's AVX2; bits of a run "limited for reproducibility" still depend on the machine.
# ONNX Runtime 1.32 has no switch at all. benchmarks/isa.py tells by the rate who ran wider vectors.
# Times decide, so that it wants a core that is not much used by others; processors without AVX2 show nothing.
# Versions: jax and jaxlib 0.10.2, numpy 2.4.6.
# Source: observed; the flag's text in xla/xla.proto (xla_cpu_max_isa).
set -euo pipefail
grep -q -w avx2 /proc/cpuinfo || { echo "needs a processor with AVX2"; exit 0; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat > "$place/times.py" <<'PYTHON'
import os
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
import numpy as np

x = jax.numpy.asarray(np.random.default_rng(0).standard_normal((512, 512)).astype("f4"))


def polynomial(x):
    y = x
    for _ in range(200):
        y = y * x * 0.001 + 0.5
    return y


for function in (jax.jit(lambda x: x @ x), jax.jit(polynomial)):
    function(x).block_until_ready()
    best, end = 1e9, time.perf_counter() + 1
    while time.perf_counter() < end:
        began = time.perf_counter()
        function(x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    print(best)
PYTHON
cat > "$place/judge.py" <<'PYTHON'
import os
import subprocess
import sys

best = {}
for _ in range(3):  # in turns: others may use the machine
    for limit in ("", "SSE4_2"):
        env = {**os.environ, "XLA_FLAGS": f"--xla_cpu_max_isa={limit}" if limit else ""}
        said = subprocess.run([sys.executable, sys.argv[1]], env=env, check=True, capture_output=True, text=True)
        times = [float(line) for line in said.stdout.split()]
        best[limit] = [min(pair) for pair in zip(times, best.get(limit, times))]
(product, loop), (product_held, loop_held) = best[""], best["SSE4_2"]
print(f"a product of 512 rows: {2 * 512**3 / product / 1e9:.0f} GFLOP/s, limited to SSE4.2 {2 * 512**3 / product_held / 1e9:.0f}")
print(f"a polynomial of 200 steps on 262144 numbers: {loop * 1e3:.1f} ms, limited to SSE4.2 {loop_held * 1e3:.1f}")
assert product_held < 1.7 * product, "the product is limited, too"
assert loop_held > 1.4 * loop, "XLA's own loops are not limited"
PYTHON
"$place/venv/bin/python" "$place/judge.py" "$place/times.py"
echo "still so: --xla_cpu_max_isa does not limit XLA's matrix products"
