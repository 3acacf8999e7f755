#!/usr/bin/env bash
# torch.compile's cache on disk does not ask with which ATEN_CPU_CAPABILITY an entry was made: code that was
# generated for AVX-512 is compiled again for AVX2, and computes eight numbers of every sixteen.
#
# Expected: the cache's key holds whatever generated code depends on; what was made for another instruction
# set is made anew, as a fresh directory shows that it can be.
# Seen (2.13.0; 2.14.1 as well): the graph is found in the cache and its C++, whose loops step by 16, is
# compiled with vectors of 8. No error and no warning; half of the numbers are whatever was in memory. In
# the default mode as with max-autotune and freezing. With a directory for each, everything is right.
# Why it matters: a comparison of instruction sets on one machine, as a benchmark makes, times wrong code;
# the directory is by default one for each user and is meant to be shared (TORCHINDUCTOR_CACHE_DIR). A
# sampler that is compared once, with a full cache, and run elsewhere gives other actions: ours were NaN, and
# in another run 5e-2 off. Give each instruction set a directory of its own (benchmarks/isa.py does).
# Needs a processor with AVX-512 and a C++ compiler; elsewhere it shows nothing.
# Versions: torch 2.13.0, numpy 2.4.6.
# Source: observed.
set -euo pipefail
grep -q -w avx512f /proc/cpuinfo || { echo "needs a processor with AVX-512"; exit 0; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet "torch==2.13.0" "numpy==2.4.6"
cat > "$place/gelu.py" <<'PYTHON'
import sys

import torch

x = torch.linspace(-3, 3, 4096)
got = torch.compile(torch.nn.functional.gelu)(x)
wrong = (got - torch.nn.functional.gelu(x)).abs() > 1e-5
lanes = sorted({i % 16 for i in wrong.nonzero().ravel().tolist()})
print(f"{torch.backends.cpu.get_cpu_capability()}, {sys.argv[1]}: {int(wrong.sum())} of {len(x)} numbers are wrong; of every sixteen, those at {lanes}")
sys.exit(3 if wrong.any() else 0)
PYTHON
run() { # capability, cache directory, what it is
  ATEN_CPU_CAPABILITY=$1 TORCHINDUCTOR_CACHE_DIR="$place/$2" "$place/venv/bin/python" "$place/gelu.py" "$3"
}
run avx512 shared "an empty cache"
code=0
run avx2 shared "the cache of the run before" || code=$?
run avx2 own "an empty cache"
test "$code" -eq 3 || { echo "the cache is asked for by capability now"; exit 1; }
echo "still so: an entry for AVX-512 is used, and is wrong, with AVX2"
