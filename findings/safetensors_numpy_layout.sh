#!/usr/bin/env bash
# safetensors 0.8 writes a NumPy array that is transposed, strided or reversed as its memory lies: other
# values come back, without an error; of a reversed one, some are not even the array's.
#
# Expected: save_file({"w": kernel.T}) either stores the transposed matrix, as safetensors 0.7 and
# numpy.savez do, or refuses, as safetensors.torch does ("non contiguous tensor").
# Seen (0.8.0): shape and dtype are right, the numbers are those of the memory from the array's first
# element on, read in C order. A view in Fortran order comes back permuted, a[:, ::2] with the columns
# that it leaves out, a[::-1] with its last row and then what lies behind the array in memory. 0.7.0 is
# right with every one. Since 0.8 the serialiser is handed a pointer in place of tobytes().
# Why it matters: flax keeps kernels (in, out) and PyTorch weights (out, in), so that whoever converts
# between them by way of NumPy saves transposed views. Kernels between layers of one width are square:
# the file has every shape right and loads anywhere. numpy.ascontiguousarray is the way round.
# Versions: safetensors 0.8.0 and 0.7.0, numpy 2.4.6.
# Source: observed; https://github.com/safetensors/safetensors/issues/825 (for Fortran order).
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet "safetensors==0.8.0" "numpy==2.4.6"
cat > "$place/views.py" <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

memory = np.arange(16, dtype=np.float32)
a = memory[:12].reshape(3, 4)  # 12 … 15 lie behind it
views = {
    "a": a,
    "a.T": a.T,
    "asfortranarray(a)": np.asfortranarray(a),
    "a[:, ::2]": a[:, ::2],
    "a[::-1]": a[::-1],
}
wrong = []
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}")
for name, view in views.items():
    back = load(save({"w": view}))["w"]
    assert (back.shape, back.dtype) == (view.shape, view.dtype)
    same = np.array_equal(back, view)
    print(f"  {name:18} comes back {'as it was' if same else f'as {back.ravel()[:8]} …'}")
    wrong += [] if same else [name]
    assert np.array_equal(load(save({"w": np.ascontiguousarray(view)}))["w"], view)
expected = [name for name in views if name != "a"] if sys.argv[1] == "wrong" else []
assert wrong == expected, (wrong, expected)
if wrong:
    behind = load(save({"w": a[::-1]}))["w"].ravel()[4:8]
    assert np.array_equal(behind, memory[12:]), "a[::-1]: the second row is what lies behind the array"
PYTHON
"$place/venv/bin/python" "$place/views.py" wrong
pip install --quiet "safetensors==0.7.0"
"$place/venv/bin/python" "$place/views.py" right
echo "as described: 0.8.0 writes memory as it lies, 0.7.0 the array"
