#!/usr/bin/env bash
# Before NumPy 2.2, np.savez(F, …, allow_pickle=False) pickles all the same, and adds an array that is
# called allow_pickle.
#
# Expected: allow_pickle=False, an argument of np.save and np.load, keeps Python objects out of the file
# of np.savez and np.savez_compressed as well, or is refused as unknown.
# Seen: savez stores every keyword as an array. Up to NumPy 2.1 it has no such argument: the file gets a
# member allow_pickle.npy (a bool), and an array of objects is pickled into it, without a word. Since
# 2.2 it is an argument, which raises ValueError on objects.
# Why it matters: code that was written to be safe and tested with a new NumPy is not under an old one,
# which its requirements allow: readers that take every member of the file for a weight find one more,
# and readers with allow_pickle=False fail on files that were meant to be plain.
# Versions: numpy 2.1.3 and 2.2.6.
# Source: observed; the signatures of numpy.savez.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
cat > "$place/plain.py" <<'PYTHON'
import io
import sys

import numpy as np

print(f"numpy {np.__version__}")
members, pickled = {}, {}
for save in (np.savez, np.savez_compressed):
    buffer = io.BytesIO()
    save(buffer, w=np.zeros(2), allow_pickle=False)
    buffer.seek(0)
    members[save.__name__] = np.load(buffer).files
    try:
        save(io.BytesIO(), w=np.array([{"an": "object"}]), allow_pickle=False)
        pickled[save.__name__] = True
    except ValueError:
        pickled[save.__name__] = False
    print(f"  {save.__name__}: holds {members[save.__name__]}, objects "
          f"{'pickled' if pickled[save.__name__] else 'refused'}")
old = sys.argv[1] == "old"
assert set(map(tuple, members.values())) == {("w", "allow_pickle") if old else ("w",)}, members
assert set(pickled.values()) == {old}, pickled
PYTHON
pip install --quiet "numpy==2.1.3"
"$place/venv/bin/python" "$place/plain.py" old
pip install --quiet "numpy==2.2.6"
"$place/venv/bin/python" "$place/plain.py" new
echo "as described: an array of that name and a pickle before 2.2, an argument since"
