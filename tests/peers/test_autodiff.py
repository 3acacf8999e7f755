"""Two autodiff frameworks as oracles: JAX and PyTorch differentiate what we derived by hand.

The networks are written out again in each framework, in float64. Run with `pytest -m peers` after
`pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import losses
from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams
from tests.conftest import small_checkpoint, states
from tests.helpers.checkpoints import OPTIONS, official_tree, same, write
from tests.helpers.losses import batch_of

pytestmark = pytest.mark.peers

NAMES = ("ood", "qgf", "qgf_jacobian", "bptt", "qgf_chain", "qgf_masked", "qgf_jacobian_unmasked")
STEP = 2


def forward(lib: Any, tanh: Callable[[Any], Any], layers: Any, x: Any) -> Any:
    """The MLP in a framework's arrays; layers of (kernel, bias, scale | None, offset | None)."""
    for i, (kernel, bias, scale, offset) in enumerate(layers):
        x = x @ kernel + bias
        if scale is not None:
            mean = x.mean(-1)[..., None]
            var = ((x - mean) ** 2).mean(-1)[..., None]
            x = (x - mean) / lib.sqrt(var + 1e-6) * scale + offset
        if i < len(layers) - 1:
            x = 0.5 * x * (1 + tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x


def embedding(t: float) -> Array:
    angle = t * 10000 * np.exp(-np.log(10000) * np.arange(8) / 8)
    return np.r_[np.cos(angle), np.sin(angle)]


def layers_of(params: MLPParams, convert: Any, member: int | None = None) -> Any:
    pick = (lambda a: a) if member is None else (lambda a: a[member])
    return [
        tuple(None if p is None else convert(pick(p)) for p in layer.parts())
        for layer in params.layers
    ]


class Peer:
    """v, Q, one-step estimate and ODE of a checkpoint in a framework."""

    def __init__(self, ck: Checkpoint, lib: Any, convert: Any, concat: Any, clip: Any) -> None:
        self.T, self.lib, self.convert, self.concat, self.clip = (
            ck.options.denoise_steps, lib, convert, concat, clip,
        )  # fmt: skip
        self.policy = layers_of(ck.policy, convert)
        self.members = [layers_of(ck.target_critic, convert, e) for e in (0, 1)]

    def v(self, s: Any, a: Any, t: float) -> Any:
        rows = np.repeat(embedding(t)[None], s.shape[0], axis=0)
        x = self.concat([s, a, self.convert(rows)])
        return forward(self.lib, self.lib.tanh, self.policy, x)

    def q(self, s: Any, a: Any) -> Any:
        x = self.concat([s, a])
        q = [forward(self.lib, self.lib.tanh, m, x)[:, 0] for m in self.members]
        return self.lib.minimum(q[0], q[1])

    def unclipped(self, s: Any, a: Any) -> Any:
        t = STEP / self.T
        return a + (1 - t) * self.v(s, a, t)

    def ode(self, s: Any, a: Any) -> Any:
        for k in range(STEP, self.T):
            a = a + self.v(s, a, k / self.T) / self.T
        return self.clip(a)


def expected(peer: Peer, grad: Any, stop: Any, s: Any, a: Any) -> dict[str, Any]:
    """Every estimator by autodiff. grad(f, x): gradient of the sum; stop: detach."""
    one_step = stop(peer.clip(peer.unclipped(s, a)))
    at_one_step = stop(grad(lambda x: peer.q(s, x).sum(), one_step))
    unmasked = grad(lambda x: (peer.unclipped(s, x) * at_one_step).sum(), a)
    pre = stop(peer.unclipped(s, a))
    return {
        "ood": grad(lambda x: peer.q(s, x).sum(), a),
        "qgf": at_one_step,
        "qgf_jacobian": grad(lambda x: peer.q(s, peer.clip(peer.unclipped(s, x))).sum(), a),
        "bptt": grad(lambda x: peer.q(s, peer.ode(s, x)).sum(), a),
        "qgf_chain": grad(lambda x: peer.q(s, x).sum(), stop(peer.ode(s, a))),
        "qgf_masked": grad(lambda x: (peer.clip(x) * at_one_step).sum(), pre),
        "qgf_jacobian_unmasked": unmasked,
    }


def compare(ck: Checkpoint, results: dict[str, Any], obs: Array, action: Array) -> None:
    """Two float64 implementations: measured ≤ 2e-14."""
    step = qgf_ref.denoising_step(ck.flow, obs, action, STEP)
    for name in NAMES:
        actual = qgf_ref.estimator(name)(ck.flow, step).gradient
        truth = np.asarray(results[name])
        assert np.linalg.norm(actual - truth) < 1e-12 * np.linalg.norm(truth), name


@pytest.mark.usefixtures("double_precision", "quick_compilation")
def test_jax() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    ck = small_checkpoint()
    obs, action = states(ck, 6)

    def concat(parts: Any) -> Any:
        return jnp.concatenate(parts, axis=-1)

    peer = Peer(ck, jnp, jnp.asarray, concat, lambda x: jnp.clip(x, -1, 1))
    s, a = jnp.asarray(obs), jnp.asarray(action)

    @jax.jit
    def results(s: Any, a: Any) -> dict[str, Any]:
        return expected(peer, lambda f, x: jax.grad(f)(x), jax.lax.stop_gradient, s, a)

    compare(ck, results(s, a), obs, action)


def torch_gradient(f: Callable[[Any], Any], x: Any) -> Any:
    import torch

    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    ck = small_checkpoint()
    obs, action = states(ck, 6)
    peer = Peer(
        ck, torch, torch.as_tensor, lambda p: torch.cat(p, -1), lambda x: torch.clamp(x, -1, 1)
    )
    s, a = torch.as_tensor(obs), torch.as_tensor(action)
    results = expected(peer, torch_gradient, lambda x: x.detach(), s, a)
    compare(ck, {k: v.detach().numpy() for k, v in results.items()}, obs, action)


def test_losses_in_torch() -> None:
    """Gradients of the three losses in every parameter, by autograd. Measured ≤ 2e-15."""
    torch = pytest.importorskip("torch")
    ck = small_checkpoint()
    batch, drawn = batch_of(ck)
    x0, t = drawn.values()
    hyper = ck.hyperparameters()
    ours = losses(RECIPE, ck.networks(), batch, drawn, hyper)

    def tensor(a: Array) -> Any:
        return torch.tensor(a, requires_grad=True)

    def gradients(loss: Any, layers: Any) -> list[Array]:
        parts = [p for layer in layers for p in layer if p is not None]
        return [g.numpy() for g in torch.autograd.grad(loss, parts)]

    def mlp(layers: Any, *parts: Any) -> Any:
        x = torch.cat([torch.as_tensor(p) for p in parts], -1)
        return forward(torch, torch.tanh, layers, x)

    policy = layers_of(ck.policy, tensor)
    x_t = (1 - t[:, None]) * x0 + t[:, None] * batch.action
    times = np.stack([embedding(float(x)) for x in t])
    v = mlp(policy, batch.obs, x_t, times)
    flow_loss = ((v - torch.as_tensor(batch.action - x0)) ** 2).mean()

    value = layers_of(ck.value, tensor)
    target = mlp(layers_of(ck.value, torch.as_tensor), batch.next_obs)[:, 0]
    y = torch.as_tensor(batch.rewards) + hyper.discount * torch.as_tensor(batch.masks) * target
    valid = torch.as_tensor(batch.valid)
    members = [layers_of(ck.critic, tensor, e) for e in (0, 1)]
    q = torch.stack([mlp(m, batch.obs, batch.action)[:, 0] for m in members])
    critic_loss = (valid * (q - y) ** 2).mean()

    frozen = [layers_of(ck.target_critic, torch.as_tensor, e) for e in (0, 1)]
    best = torch.stack([mlp(m, batch.obs, batch.action)[:, 0] for m in frozen]).min(0).values
    d = best - mlp(value, batch.obs)[:, 0]
    # torch.where of two Python floats would be float32
    above, below = (torch.tensor(w, dtype=d.dtype) for w in (hyper.expectile, 1 - hyper.expectile))
    weight = torch.where(d > 0, above, below)
    value_loss = (valid * weight * d**2).mean()

    by_member = [gradients(critic_loss, m) for m in (members[0],)]
    q = torch.stack([mlp(m, batch.obs, batch.action)[:, 0] for m in members])
    by_member.append(gradients((valid * (q - y) ** 2).mean(), members[1]))
    stacked = [np.stack(pair) for pair in zip(*by_member, strict=True)]
    for name, loss, expected_bar in (
        ("policy", flow_loss, gradients(flow_loss, policy)),
        ("critic", critic_loss, stacked),
        ("value", value_loss, gradients(value_loss, value)),
    ):
        assert abs(ours.values[name] / float(loss.detach()) - 1) < 1e-13
        for mine, theirs in zip(ours.gradients[name].arrays(), expected_bar, strict=True):
            assert np.linalg.norm(mine - theirs) <= 1e-12 * np.linalg.norm(theirs)


def test_a_pickle_of_this_jax_is_read_without_jax(tmp_path: Path) -> None:
    """The installed JAX's own arrays, in the official layout."""
    jax = pytest.importorskip("jax")
    ck = small_checkpoint(dtype="float32")
    tree = jax.tree_util.tree_map(jax.numpy.asarray, official_tree(ck))
    same(qgf_ref.load(write(tmp_path / "params_1.pkl", tree, OPTIONS), dtype="float32"), ck)
