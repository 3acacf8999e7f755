"""LayerNorm after the activation and residual blocks: against PyTorch's modules and autograd."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from qgf_ref.nets.mlp import (
    LayerParams,
    MLPOptions,
    MLPParams,
    mlp,
    mlp_jvp,
    mlp_vjp,
    mlp_vjp_jvp,
    mlp_vjp_params,
)

pytestmark = pytest.mark.peers
WIDTHS = 7, 6, 6, 6, 4


def ported(params: MLPParams, options: MLPOptions) -> Any:
    """As a PyTorch port writes it: a projection, then blocks of one width."""
    import torch

    class Ported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.norms = torch.nn.ModuleList(), torch.nn.ModuleList()
            for layer in params.layers:
                rows, columns = layer.kernel.shape
                dense = torch.nn.Linear(rows, columns, dtype=torch.float64)
                norm: Any = torch.nn.Identity()
                dense.weight.data, dense.bias.data = map(torch.tensor, (layer.kernel.T, layer.bias))
                if layer.scale is not None:
                    eps = options.layer_norm_eps
                    norm = torch.nn.LayerNorm(columns, eps=eps, dtype=torch.float64)
                    norm.weight.data, norm.bias.data = map(
                        torch.tensor, (layer.scale, layer.offset)
                    )
                self.dense.append(dense)
                self.norms.append(norm)

        def forward(self, x: Any) -> Any:
            for i, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True)):
                h = dense(x)
                if i == len(params.layers) - 1:
                    x = h
                    continue
                if options.norm_after_activation:
                    h = norm(torch.nn.functional.gelu(h, approximate="tanh"))
                else:
                    h = torch.nn.functional.gelu(norm(h), approximate="tanh")
                x = x + h if options.residual and i > 0 else h
            return x

    return Ported()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_products_agree_with_autograd(after: bool, residual: bool) -> None:
    import torch

    rng = np.random.default_rng(0)
    options = MLPOptions("gelu", 1e-5, "two_pass", after, residual)
    layers = []
    for rows, columns in pairwise(WIDTHS):
        count = 3 if columns != WIDTHS[-1] else 1
        vectors = [rng.standard_normal(columns) for _ in range(count)]
        layers.append(LayerParams(rng.standard_normal((rows, columns)) / 2, *vectors))
    params = MLPParams(tuple(layers))
    x, x_dot = rng.standard_normal((2, 5, WIDTHS[0]))
    y_bar = rng.standard_normal((5, WIDTHS[-1]))
    y, cache = mlp(params, x, options)
    x_bar, params_bar = mlp_vjp_params(y_bar, cache)
    alone, bent = mlp_vjp(y_bar, cache), mlp_vjp_jvp(x_dot, y_bar, cache)
    ours = [y, mlp_jvp(x_dot, cache), alone, x_bar, bent]

    net = ported(params, options)
    v = torch.tensor(x, requires_grad=True)
    u, v_dot = torch.tensor(y_bar), torch.tensor(x_dot)
    z, z_dot = torch.autograd.functional.jvp(net, v, v_dot, create_graph=False)
    output = net(v)
    (v_bar,) = torch.autograd.grad(output, v, u, create_graph=True)
    (v_bar_dot,) = torch.autograd.grad(v_bar, v, v_dot, retain_graph=True)
    theirs = [z, z_dot, v_bar, v_bar, v_bar_dot]
    for a, b in zip(ours, theirs, strict=True):
        assert a is not None
        # measured 2e-14 of the largest
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-12)
    output = net(v)
    output.backward(u)
    for bar, dense, norm in zip(params_bar.layers, net.dense, net.norms, strict=True):
        np.testing.assert_allclose(bar.kernel, dense.weight.grad.numpy().T, rtol=0, atol=1e-12)
        np.testing.assert_allclose(bar.bias, dense.bias.grad.numpy(), rtol=0, atol=1e-12)
        if bar.scale is not None and bar.offset is not None:
            np.testing.assert_allclose(bar.scale, norm.weight.grad.numpy(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(bar.offset, norm.bias.grad.numpy(), rtol=0, atol=1e-12)
