#!/usr/bin/env bash
# threadpoolctl lists the thread pools of a process in another order from run to run.
#
# Expected: the same script with the same packages on the same machine gets the same list from
# threadpool_info(), so that the lists of two runs can be compared to tell whether they had the same
# BLAS.
# Seen: with NumPy's and SciPy's wheels, which each bring an OpenBLAS of their own, either one comes
# first. On Linux the paths are gathered from /proc/self/maps into a set of bytes, whose order
# depends on Python's hash seed: the same PYTHONHASHSEED gives the same order, another seed another.
# threadpoolctl 3.6.0 asked the dynamic linker, which answers in the order of loading.
# Why it matters: a record of a run that is compared with the next run's reports another BLAS where
# there is none, and threadpool_info()[0] is sometimes NumPy's and sometimes SciPy's. Compare sorted.
# Versions: threadpoolctl 3.8.0, numpy 2.4.6, scipy 1.17.1, CPython 3.11 on Linux.
# Source: observed; ThreadpoolController._find_libraries_with_linux.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet "threadpoolctl==3.8.0" "numpy==2.4.6" "scipy==1.17.1"
cat > "$place/list.py" <<'PYTHON'
import numpy
import scipy.linalg
from threadpoolctl import threadpool_info

print(" ".join(pool["version"] for pool in threadpool_info()))
PYTHON
orders() {
    for seed in $(seq 0 11); do
        PYTHONHASHSEED=$seed "$place/venv/bin/python" "$place/list.py"
    done
}
first=$(orders)
echo "versions in the order of threadpool_info(), by hash seed 0 to 11:"
echo "$first" | sort | uniq -c
[ "$(echo "$first" | sort -u | wc -l)" = 2 ] || { echo "not as described: one order"; exit 1; }
[ "$(orders)" = "$first" ] || { echo "not as described: a seed's order changed"; exit 1; }
pip install --quiet "threadpoolctl==3.6.0"
[ "$(orders | sort -u | wc -l)" = 1 ] || { echo "not as described: 3.6.0 had two orders"; exit 1; }
echo "as described: two orders, told apart by the hash seed; threadpoolctl 3.6.0 has one"
