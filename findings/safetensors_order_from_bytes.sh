#!/usr/bin/env bash
# safetensors' load(bytes) returns the tensors in another order at every call; load_file(path), of the
# same bytes, in the file's.
#
# Expected: a dict in the order of the file's header, as load_file, safe_open(…).keys(), numpy.load and
# torch.load give it: Python's dicts keep an order, and the header has one.
# Seen (0.5.3 to 0.8.0): safetensors.numpy.load and safetensors.torch.load, and deserialize under them,
# give the names in an order that changes from call to call within one process (a hash map with random
# keys on the Rust side). Every array is right under its name; the order means nothing.
# Why it matters: zip(load(a).values(), load(b).values()) pairs arrays of different layers, silently where
# shapes agree, as those of hidden layers do; parameters that are flattened into one vector, or numbered
# for an optimiser, by iteration are another vector in every run. A checkpoint that is read from memory (a
# download, an archive, an object store) takes this path, the same one on disk does not, so that it works
# on one's own machine. Iterate over sorted(names).
# Versions: safetensors 0.8.0 and 0.5.3, numpy 2.4.6.
# Source: observed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
cat > "$place/order.py" <<'PYTHON'
import json
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save_file

path = sys.argv[1]
hidden = {f"layers.{i:02}.kernel": np.full((2, 2), i, np.float32) for i in range(16)}
save_file(hidden, path)
data = open(path, "rb").read()
header = list(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))
assert header == list(hidden)
print(f"safetensors {safetensors.__version__}; layers in the order in which they come")
orders = [[int(name[7:9]) for name in load(data)] for _ in range(3)]
for order in orders:
    print("  load(bytes)     ", *order)
print("  load_file(path) ", *(int(name[7:9]) for name in load_file(path)))
for _ in range(3):
    assert list(load_file(path)) == header
    whole = load(data)
    assert all(np.array_equal(whole[name], array) for name, array in hidden.items())
# 16! orders: twice the same by chance would be seen once in 2e13 runs
assert orders[0] != orders[1] and orders[1] != orders[2] and sorted(orders[0]) == list(range(16))
apart = sum(not np.array_equal(a, b) for a, b in zip(load(data).values(), load(data).values()))
print(f"  one file zipped with itself: {apart} of 16 pairs are of different layers")
assert apart
PYTHON
for version in 0.8.0 0.5.3; do
  pip install --quiet "safetensors==$version" "numpy==2.4.6"
  "$place/venv/bin/python" "$place/order.py" "$place/m.safetensors"
done
echo "as described: an order of its own at every load(bytes), the file's at every load_file"
