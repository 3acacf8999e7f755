#!/usr/bin/env bash
# On a CPU, PyTorch's attention has second derivatives while its layer is in training mode, and none once
# it is in eval mode; forward-mode derivatives likewise.
#
# Expected: a layer made of differentiable operations can be differentiated twice, and eval() switches
# Dropout off and changes nothing else. A Hessian-vector product, or a jvp, that was written and tested on
# a module as it was constructed goes on working on the module as it is deployed.
# Seen (2.13.0): scaled_dot_product_attention chooses a fused kernel on CPUs whenever dropout_p is 0, and
# that kernel's backward has no derivative and no forward-mode rule: RuntimeError at the second
# differentiation, NotImplementedError in torch.func.jvp. With dropout_p > 0 the unfused formula is used,
# which has both. A TransformerEncoderLayer with its default dropout of 0.1 therefore allows both after
# construction, and neither after eval(). Masks, is_causal and float64 make no difference.
# Why it matters: guidance that needs more than one vjp through a transformer (a covariance or curvature
# term, an hvp of a critic, a jvp of the policy) passes its tests in training mode on a CPU, where CI
# runs, and raises in deployment. Wrap the call in torch.nn.attention.sdpa_kernel(SDPBackend.MATH).
# Versions: torch 2.13.0, numpy 2.4.6.
# Source: observed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet "torch==2.13.0" "numpy==2.4.6"
cat > "$place/attention.py" <<'PYTHON'
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.simplefilter("ignore")  # of a prototype's interface, about the fast path
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).double()
x, direction = torch.randn(2, 2, 5, 16, dtype=torch.float64)


def value(x):
    torch.manual_seed(1)  # the same Dropout in every call
    return layer(x).tanh().sum()


def hvp():
    at = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(value(at), at, create_graph=True)
    return torch.autograd.grad((g * direction).sum(), at)[0]


def jvp():
    return torch.func.jvp(value, (x,), (direction,))[1]


def answer(product):
    try:
        return product()
    except (RuntimeError, NotImplementedError) as error:
        return type(error).__name__


print("torch", torch.__version__)
for mode in ("train", "eval"):
    getattr(layer, mode)()
    at = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(value(at), at)
    assert g.isfinite().all()
    for product in (hvp, jvp):
        seen = answer(product)
        if mode == "train":
            assert isinstance(seen, torch.Tensor) and seen.isfinite().all()
        else:
            assert seen == {hvp: "RuntimeError", jvp: "NotImplementedError"}[product], seen
        told = seen if isinstance(seen, str) else "a result"
        print(f"  {mode:5}  gradient: a result  {product.__name__}: {told}")

with sdpa_kernel(SDPBackend.MATH):
    for product in (hvp, jvp):
        assert isinstance(answer(product), torch.Tensor)
    step = 1e-6
    with torch.no_grad():
        difference = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert torch.isclose(jvp(), difference, rtol=1e-6)
print("  eval   with sdpa_kernel(SDPBackend.MATH): hvp and jvp, right to differences")
PYTHON
"$place/venv/bin/python" "$place/attention.py"
echo "as described: what eval() takes away is the second derivative"
