#!/usr/bin/env bash
# A pickle with one jax.random.key() in it cannot be read by another version of JAX: its arrays can.
#
# Expected: pickled checkpoints of JAX arrays are read by later versions (arrays and old-style keys of
# PRNGKey() are rebuilt from NumPy's), and the documentation recommends key() over PRNGKey().
# Seen: a typed key is pickled as an object of a private class with its implementation's functions, by
# the names of their modules: jax._src.prng in JAX 0.6.2, jax._src.random.prng in 0.10.2. Either
# version's pickle.load raises ModuleNotFoundError on the other's file, and with the key the whole file
# is lost, parameters included; the same file with PRNGKey(0) is read both ways.
# Why it matters: agents keep their generator's state beside their parameters ("rng"), and pickle is
# how the official code of OGBench, FQL and their descendants saves both. Swapping PRNGKey for key, as
# advised, makes checkpoints that last one version. Save jax.random.key_data(key) in its place.
# Versions: jax 0.6.2 and 0.10.2, on the CPU.
# Source: observed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export JAX_PLATFORMS=cpu
cat > "$place/write.py" <<'PYTHON'
import pickle
import sys

import jax

for name, rng in (("typed", jax.random.key(0)), ("raw", jax.random.PRNGKey(0))):
    with open(f"{sys.argv[1]}/{name}.pkl", "wb") as file:
        pickle.dump({"params": {"w": jax.numpy.ones(3)}, "rng": rng}, file)
PYTHON
cat > "$place/read.py" <<'PYTHON'
import pickle
import sys

import jax

outcome = {}
for name in ("typed", "raw"):
    with open(f"{sys.argv[1]}/{name}.pkl", "rb") as file:
        try:
            outcome[name] = f"read, w = {pickle.load(file)['params']['w']}"
        except ModuleNotFoundError as error:
            outcome[name] = f"ModuleNotFoundError: {error}"
    print(f"jax {jax.__version__}, {sys.argv[2]}, {name} key: {outcome[name]}")
assert outcome["raw"].startswith("read")
assert outcome["typed"].startswith("read" if sys.argv[2] == "its own file" else "ModuleNotFound")
PYTHON
for version in 0.6.2 0.10.2; do
    python3 -m venv "$place/$version"
    "$place/$version/bin/python" -m pip --disable-pip-version-check install --quiet \
        "jax==$version" "jaxlib==$version"
    mkdir "$place/files-$version"
    "$place/$version/bin/python" "$place/write.py" "$place/files-$version"
    "$place/$version/bin/python" "$place/read.py" "$place/files-$version" "its own file"
done
"$place/0.10.2/bin/python" "$place/read.py" "$place/files-0.6.2" "the older one's file"
"$place/0.6.2/bin/python" "$place/read.py" "$place/files-0.10.2" "the newer one's file"
echo "as described: a typed key makes a pickle unreadable to the other version, a raw one does not"
