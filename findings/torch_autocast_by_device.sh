#!/usr/bin/env bash
# Under torch.autocast, LayerNorm, softmax, norms and sums stay in bfloat16 on a CPU, where a GPU computes
# them in float32: each device has a list of its own.
#
# Expected: torch.autocast(device, torch.bfloat16) makes matrix products bfloat16 and keeps what is
# sensitive in float32, as its best known list (CUDA's) does; a policy that was tried on a CPU rounds like
# the one that is deployed, up to the order of sums.
# Seen (2.13.0): of that list, layer_norm, group_norm, rms_norm, softmax, sum, exp, pow, norm and
# linalg_vector_norm have a rule for CUDA and none for the CPU. There they take the bfloat16 that the layer
# before them made, and return bfloat16: a gradient's norm has 8 bits, a LayerNorm's output 8 in place of
# 24. What the two devices share are matrix products, and losses and prod, which are float32 on both.
# Why it matters: guidance clips by ‖∇Q‖, weighs by sums over members and acts through LayerNorm; a port
# that was verified in half precision on a CPU, where CI runs, is another function than the one on the
# robot's GPU, and the other way round. Write x.float() before norms and sums, or compare in float32.
# No GPU is needed to see it: which operations have a rule is asked of PyTorch's dispatcher.
# Versions: torch 2.13.0, numpy 2.4.6.
# Source: observed; "CUDA/CPU Op-Specific Behavior" in PyTorch's docs, amp.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet "torch==2.13.0" "numpy==2.4.6"
cat > "$place/autocast.py" <<'PYTHON'
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")  # of a kernel that is not fused
torch.manual_seed(0)
x, linear = torch.randn(8, 512), nn.Linear(512, 512)
calls = {
    "layer_norm": ("layer_norm", nn.LayerNorm(512)),
    "group_norm": ("group_norm", nn.GroupNorm(8, 512)),
    "softmax": ("softmax.int", lambda y: y.softmax(-1)),
    "sum": ("sum.dim_IntList", lambda y: y.sum(-1)),
    "exp": ("exp", torch.exp),
    "pow": ("pow.Tensor_Scalar", lambda y: y**2),
    "linalg_vector_norm": ("linalg_vector_norm", lambda y: torch.linalg.vector_norm(y, dim=-1)),
}
rule = torch._C._dispatch_has_kernel_for_dispatch_key
with torch.autocast("cpu", torch.bfloat16):
    y = linear(x)
    assert y.dtype == torch.bfloat16
    for name, (operation, call) in calls.items():
        cpu, cuda = (rule(f"aten::{operation}", f"Autocast{d}") for d in ("CPU", "CUDA"))
        of = call(y).dtype
        print(f"{name:20} rule for CUDA: {cuda}, for the CPU: {cpu}; on the CPU it returns {of}")
        assert cuda and not cpu and of == torch.bfloat16
    norm = torch.linalg.vector_norm(y, dim=-1)
shared = [f"aten::{op}" for op in ("linear", "mse_loss", "prod")]
assert all(rule(op, f"Autocast{device}") for op in shared for device in ("CPU", "CUDA"))
exact = torch.linalg.vector_norm(y.double(), dim=-1)
off = ((norm.double() - exact) / exact).abs().max().item()
print(f"the norms of {len(y)} vectors are off by up to {off:.1e}; float32 would be by 1e-7")
assert 1e-4 < off < 2.0**-8
PYTHON
"$place/venv/bin/python" "$place/autocast.py"
echo "still so: torch.autocast keeps LayerNorm, softmax, norms and sums in float32 on CUDA alone"
