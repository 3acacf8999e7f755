#!/usr/bin/env bash
# The derivative of "clip to ±1" at exactly 1 is 0, ½ or 1, by the spelling, in JAX and in PyTorch.
#
# Expected: one framework has one convention for a clip at its bound.
# Seen, d/dx at x = 1:
#     JAX 0.10.2       jnp.clip ½, jax.lax.clamp 0, jax.nn.hard_tanh 1
#     PyTorch 2.13.0   torch.clamp 1, F.hardtanh 0, torch.minimum(torch.maximum(…)) ½
# jnp.clip and the pair of minimum and maximum share a tie between the two sides. hard_tanh, which
# is clip by definition, has opposite conventions in the two frameworks.
# Why it matters: an actor or a guided sampler asks the critic at clipped actions. Whatever was
# clipped before (a demonstration's action, the last step's result) lies *at* the bound, and its
# critic gradient is passed on whole, by half or not at all. A port that says clamp for clip is off by
# a factor on exactly those coordinates, and no finite difference tells which is right.
# Versions: jax 0.10.2, torch 2.13.0, on the CPU.
# Source: observed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet "torch==2.13.0"
pip install --quiet "jax==0.10.2" "jaxlib==0.10.2"
JAX_PLATFORMS=cpu "$place/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import torch

spelt_in_jax = {
    "jnp.clip(x, -1, 1)": lambda x: jnp.clip(x, -1.0, 1.0),
    "jax.lax.clamp(-1, x, 1)": lambda x: jax.lax.clamp(-1.0, x, 1.0),
    "jax.nn.hard_tanh(x)": jax.nn.hard_tanh,
    "jnp.minimum(jnp.maximum(x, -1), 1)": lambda x: jnp.minimum(jnp.maximum(x, -1.0), 1.0),
}
one = torch.tensor(1.0)
spelt_in_torch = {
    "torch.clamp(x, -1, 1)": lambda x: torch.clamp(x, -1.0, 1.0),
    "F.hardtanh(x)": torch.nn.functional.hardtanh,
    "torch.minimum(torch.maximum(x, -1), 1)": lambda x: torch.minimum(torch.maximum(x, -one), one),
}
derivatives = {}
for name, clip in spelt_in_jax.items():
    assert [float(clip(x)) for x in (-3.0, 0.25, 3.0)] == [-1.0, 0.25, 1.0]
    derivatives[name] = float(jax.grad(clip)(1.0))
for name, clip in spelt_in_torch.items():
    assert [clip(torch.tensor(x)).item() for x in (-3.0, 0.25, 3.0)] == [-1.0, 0.25, 1.0]
    x = torch.tensor(1.0, requires_grad=True)
    clip(x).backward()
    derivatives[name] = x.grad.item()
print(f"jax {jax.__version__}, torch {torch.__version__}: the same function, its derivative at 1")
for name, derivative in derivatives.items():
    print(f"  {name:40} {derivative}")
assert list(derivatives.values()) == [0.5, 0.0, 1.0, 0.5, 1.0, 0.0, 0.5], derivatives
print("as described: three conventions in each framework")
PYTHON
