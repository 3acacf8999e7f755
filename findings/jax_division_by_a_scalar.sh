#!/usr/bin/env bash
# JAX divides an array by a scalar without correct rounding, also outside jit and also where the
# scalar is no constant.
#
# Expected: float32 division is correctly rounded (IEEE 754), so that jnp.arange(T) / T gives the
# floats that NumPy and PyTorch give, and jit changes nothing that eager code did.
# Seen: XLA rewrites x / broadcast(scalar) as x · (1/scalar), rounded twice. The eager call does it as
# well (it is a compiled program of one operation), and so does a jitted function whose divisor is an
# argument. Only a divisor with as many elements as x is divided by. The multiplication is written in
# the compiled program.
# Why it matters: a flow policy's times k/T go into sinusoidal features of 10⁴·t radians. One unit in
# the last place of t = 6/7 turns the fastest one by 6e-4 rad: with T = 7, the loss of a port that
# divides correctly is 2e-5 (relative) from the JAX original's; with T = 8 it is equal.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on the CPU (x86-64).
# Source: observed; the compiled program's text is printed below.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
JAX_PLATFORMS=cpu "$place/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

print(f"jax {jax.__version__}, numpy {np.__version__}")
print(" T  wrong of T+1: eager  jit  jit, T an argument  T as an array   equal to k·fl(1/T)")
steps = (4, 6, 7, 8, 10, 11, 13)
wrong = {}
for T in steps:
    k = np.arange(T + 1, dtype=np.float32)
    right = k / np.float32(T)
    quotients = {
        "eager": jnp.asarray(k) / T,
        "jit": jax.jit(lambda k: k / T)(k),
        "argument": jax.jit(lambda k, T: k / T)(k, np.float32(T)),
        "array": jax.jit(lambda k, T: k / T)(k, np.full_like(k, T)),
    }
    wrong[T] = {how: int((np.asarray(q) != right).sum()) for how, q in quotients.items()}
    twice = k * np.float32(1 / np.float32(T))
    same = all((np.asarray(quotients[how]) == twice).all() for how in ("eager", "jit", "argument"))
    counts = wrong[T]
    print(
        f"{T:2}  {counts['eager']:19}  {counts['jit']:3}  {counts['argument']:18}  "
        f"{counts['array']:13}   {same}"
    )
    assert same
text = jax.jit(lambda k: k / 7).lower(np.arange(8, dtype=np.float32)).compile().as_text()
operations = [line.strip() for line in text.splitlines() if "multiply" in line or "divide(" in line]
print(operations[0][:100])
assert "multiply(" in text and "divide(" not in text
for how in ("eager", "jit", "argument"):
    assert [wrong[T][how] for T in steps] == [0, 1, 2, 0, 1, 1, 3], (how, wrong)
assert not any(counts["array"] for counts in wrong.values())
print("as described: an array divided by a scalar is multiplied by the rounded reciprocal")
PYTHON
